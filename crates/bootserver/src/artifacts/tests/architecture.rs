//! A kernel that starts on none of its machines is not fetched, and not served.

use super::{upstream::*, *};

/// Kernels of more than is looked at, which begin as real ones do.
fn kernel(architecture: Architecture) -> Vec<u8> {
    let mut head = match architecture {
        Architecture::X86_64 => include_bytes!("../../../../boot/src/image/linux-x86_64.head").to_vec(),
        Architecture::Aarch64 => include_bytes!("../../../../boot/src/image/linux-arm64.head").to_vec(),
    };
    head.resize(100_000, 7);
    head
}

fn arch(kernel: &Artifact) -> Option<ArchBoot> {
    Some(ArchBoot { kernel: kernel.clone(), ..ArchBoot::default() })
}

fn view(boot: BootSpec) -> Arc<View> {
    let mut p = profile("p");
    p.spec.boot = boot;
    Arc::new(View { profiles: vec![Arc::new(p)], ..View::default() })
}

impl Shelf {
    fn reports(&self, view: &View) -> Vec<ArtifactReport> {
        reports(&self.library, &view.profiles[0])
    }
}

fn says_so(report: &ArtifactReport) {
    assert_eq!(report.message.as_deref(), Some("spec.boot.aarch64.kernel is an x86_64 kernel"));
    assert_eq!(report.state, ArtifactState::WrongArchitecture);
}

#[tokio::test]
async fn one_that_is_far_is_refused_by_its_first_bytes() {
    let file = kernel(Architecture::X86_64);
    // Whoever wants more than the first bytes waits in vain.
    let line = Ways { file: file.clone(), stall: Some(8000), ..Ways::default() };
    let upstream = Upstream::start(line).await;
    let far = by_url(upstream.url(), &file);
    let mut shelf = Shelf::new();
    let view = view(BootSpec { aarch64: arch(&far), ..BootSpec::default() });
    let _writer = shelf.follow(Arc::clone(&view));
    until("it to be refused", || shelf.reports(&view)[0].state == ArtifactState::WrongArchitecture).await;
    says_so(&shelf.reports(&view)[0]);
    assert!(shelf.cached().is_empty(), "{:?}", shelf.cached());
    shelf.stop().await;
}

#[tokio::test]
async fn one_that_another_field_rightly_names_is_fetched_for_that_alone() {
    let file = kernel(Architecture::X86_64);
    let upstream = Upstream::start(Ways { file: file.clone(), ..Ways::default() }).await;
    let far = by_url(upstream.url(), &file);
    let mut shelf = Shelf::new();
    let view = view(BootSpec { x86_64: arch(&far), aarch64: arch(&far), ..BootSpec::default() });
    let _writer = shelf.follow(Arc::clone(&view));
    until("it to be there", || shelf.reports(&view)[0].state == ArtifactState::Ready).await;
    says_so(&shelf.reports(&view)[1]);
    let named = |architecture| Named { artifact: &far, kernel_of: Some(architecture) };
    assert!(shelf.library.get(named(Architecture::X86_64)).is_some());
    assert!(shelf.library.get(named(Architecture::Aarch64)).is_none());
    assert!(!shelf.library.obstacle("spec.boot.aarch64.kernel", named(Architecture::Aarch64)).unwrap().on_its_way);
    assert!(shelf.library.get(&far).is_some(), "as an initrd it may be what it likes");
    assert_eq!(upstream.asked().len(), 1);
    shelf.stop().await;
}

#[tokio::test]
async fn one_of_the_folder_is_refused_too_and_the_right_one_is_not() {
    let mut shelf = Shelf::new();
    for (name, architecture) in [("x86", Architecture::X86_64), ("arm", Architecture::Aarch64)] {
        std::fs::write(shelf.folder.path().join("files").join(name), kernel(architecture)).unwrap();
    }
    let (x86, arm) = (by_file("x86", &kernel(Architecture::X86_64)), by_file("arm", &kernel(Architecture::Aarch64)));
    let wrong = view(BootSpec { x86_64: arch(&x86), aarch64: arch(&x86), ..BootSpec::default() });
    let writer = shelf.follow(Arc::clone(&wrong));
    until("it to be refused", || shelf.reports(&wrong)[1].state == ArtifactState::WrongArchitecture).await;
    says_so(&shelf.reports(&wrong)[1]);
    let right = view(BootSpec { x86_64: arch(&x86), aarch64: arch(&arm), ..BootSpec::default() });
    writer.send_replace(Arc::clone(&right));
    until("both to be there", || shelf.reports(&right).iter().all(|report| report.state == ArtifactState::Ready)).await;
    shelf.stop().await;
}
