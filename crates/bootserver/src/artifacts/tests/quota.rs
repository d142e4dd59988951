//! What goes when the cache is full, and what never does.

use std::collections::BTreeMap;

use magnetite_api::Machine;
use magnetite_boot::fleet::Fleet;

use super::{upstream::*, *};

/// Bytes of each file; the quota is for two of them, and some that are written beside them.
const SIZE: usize = 10_000;
const TWO: Option<u64> = Some(25_000);

fn content(name: u8) -> Vec<u8> {
    vec![name; SIZE]
}

async fn far(name: u8) -> Artifact {
    let upstream = Upstream::start(Ways { file: content(name), ..Ways::default() }).await;
    by_url(upstream.url(), &content(name))
}

/// Profiles with a kernel each, and whether a Machine boots them.
fn view(profiles: &[(&str, &Artifact, bool)]) -> Arc<View> {
    let with_kernel = |(name, kernel, _): &(&str, &Artifact, bool)| {
        let mut p = profile(name);
        let boot = ArchBoot { kernel: (*kernel).clone(), ..ArchBoot::default() };
        p.spec.boot = BootSpec { x86_64: Some(boot), ..BootSpec::default() };
        Arc::new(p)
    };
    let booted = profiles.iter().filter(|(.., booted)| *booted);
    let machines = booted.enumerate().map(|(number, (name, ..))| {
        let macs = vec![format!("52:54:00:00:00:{number:02x}").parse().unwrap()];
        let spec = magnetite_api::MachineSpec { macs, profile: Some((*name).to_owned()), ..Default::default() };
        Arc::new(Machine::new(&format!("box-{number}"), spec))
    });
    let fleet = Arc::new(Fleet::index(machines.collect::<Vec<_>>()));
    Arc::new(View { fleet, profiles: profiles.iter().map(with_kernel).collect(), ..View::default() })
}

fn shelf(folder: tempfile::TempDir) -> Shelf {
    magnetite_daemon::crypto::install();
    let library = Arc::new(Library::new(folder.path().join("files"), folder.path().join("cache"), TWO));
    std::fs::create_dir_all(folder.path().join("cache")).unwrap();
    Shelf { folder, library, stop: CancellationToken::new(), running: None }
}

impl Shelf {
    fn has(&self, artifact: &Artifact) -> bool {
        self.cached().contains(&artifact.sha256.to_string())
    }
}

/// Of two files that nobody names any more, the one goes that was used longer ago: as an earlier process wrote it down,
/// or else as they were fetched.
#[rstest]
#[case::as_written_down(true)]
#[case::as_fetched(false)]
#[tokio::test]
async fn the_least_recently_used_goes(#[case] written: bool) {
    let (old, new, next) = (far(1).await, far(2).await, far(3).await);
    let mut shelf = shelf(tempfile::tempdir().unwrap());
    let cache = shelf.folder.path().join("cache");
    for (name, artifact, second) in [(1, &old, 100), (2, &new, 200)] {
        let path = cache.join(artifact.sha256.to_string());
        std::fs::write(&path, content(name)).unwrap();
        let age = if written { 300 - second } else { second };
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(age);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    if written {
        let uses: BTreeMap<_, _> = [(old.sha256.to_string(), 100), (new.sha256.to_string(), 200)].into();
        std::fs::write(cache.join("last-used.json"), serde_json::to_vec(&uses).unwrap()).unwrap();
    }
    let _view = shelf.follow(view(&[("p", &next, false)]));
    shelf.becomes(&next, ArtifactState::Ready).await;
    assert_eq!((shelf.has(&old), shelf.has(&new)), (false, true));
    shelf.stop().await;
}

#[tokio::test]
async fn what_was_served_is_remembered_as_used() {
    let artifact = far(1).await;
    let mut shelf = shelf(tempfile::tempdir().unwrap());
    let path = shelf.folder.path().join("cache").join(artifact.sha256.to_string());
    std::fs::write(path, content(1)).unwrap();
    let _view = shelf.follow(view(&[("p", &artifact, true)]));
    shelf.becomes(&artifact, ArtifactState::Ready).await;
    let uses = |folder: &Path| -> BTreeMap<String, i64> {
        let text = std::fs::read(folder.join("cache/last-used.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    };
    assert!(uses(shelf.folder.path()).is_empty(), "being there is no use");
    drop(shelf.library.get(&artifact).unwrap());
    let folder = shelf.stop().await;
    assert!(uses(folder.path())[&artifact.sha256.to_string()] > 1_700_000_000);
}

#[tokio::test]
async fn what_a_machine_boots_stays_and_what_none_boots_makes_room_for_it() {
    let (booted, spare, next) = (far(1).await, far(2).await, far(3).await);
    let mut shelf = shelf(tempfile::tempdir().unwrap());
    let both = [("booted", &booted, true), ("spare", &spare, false)];
    let writer = shelf.follow(view(&both));
    shelf.becomes(&booted, ArtifactState::Ready).await;
    shelf.becomes(&spare, ArtifactState::Ready).await;

    // A third that no Machine boots drives out neither.
    writer.send_replace(view(&[both[0], both[1], ("next", &next, false)]));
    let report = shelf.becomes(&next, ArtifactState::Failed).await;
    let words = "f: it needs 10 kB more, and 5 kB of --cache-quota (25 kB) can be made free";
    let message = report.message.unwrap();
    assert!(message.starts_with(&words.replace("5 kB", "4 kB")) || message.starts_with(words), "{message}");
    assert!(shelf.has(&booted) && shelf.has(&spare));

    // Now one boots it.
    writer.send_replace(view(&[both[0], both[1], ("next", &next, true)]));
    shelf.becomes(&next, ArtifactState::Ready).await;
    assert_eq!((shelf.has(&booted), shelf.has(&spare)), (true, false));
    assert_eq!(shelf.library.get(&spare), None);
    shelf.becomes(&spare, ArtifactState::Failed).await;

    // And a fourth, when all that is there is needed.
    let fourth = far(4).await;
    writer.send_replace(view(&[both[0], ("next", &next, true), ("fourth", &fourth, true)]));
    shelf.becomes(&fourth, ArtifactState::Failed).await;
    assert!(shelf.has(&booted) && shelf.has(&next));
    shelf.stop().await;
}

#[tokio::test]
async fn what_is_being_read_stays_until_it_was() {
    let (booted, spare, next) = (far(1).await, far(2).await, far(3).await);
    let mut shelf = shelf(tempfile::tempdir().unwrap());
    let writer = shelf.follow(view(&[("booted", &booted, true), ("spare", &spare, false)]));
    shelf.becomes(&booted, ArtifactState::Ready).await;
    shelf.becomes(&spare, ArtifactState::Ready).await;
    let reading = shelf.library.get(&spare).unwrap();
    // Not even when nobody names it any more.
    writer.send_replace(view(&[("booted", &booted, true), ("next", &next, true)]));
    shelf.becomes(&next, ArtifactState::Failed).await;
    assert!(reading.is_same(&std::fs::metadata(reading.path()).unwrap()));
    drop(reading);
    shelf.becomes(&next, ArtifactState::Ready).await;
    assert!(!shelf.has(&spare));
    shelf.stop().await;
}

#[tokio::test]
async fn half_fetched_files_count_and_go_like_others() {
    let (left, next) = (far(1).await, far(2).await);
    let mut shelf = shelf(tempfile::tempdir().unwrap());
    let cache = shelf.folder.path().join("cache");
    std::fs::write(cache.join(format!("{}.part", left.sha256)), vec![1; 2 * SIZE]).unwrap();
    std::fs::write(cache.join(format!("{}.origin", left.sha256)), b"{}").unwrap();
    let _view = shelf.follow(view(&[("p", &next, false)]));
    shelf.becomes(&next, ArtifactState::Ready).await;
    assert_eq!(shelf.cached(), [next.sha256.to_string()]);
    shelf.stop().await;
}

/// Two that are fetched at once, and for which there is room only one after the other.
#[tokio::test]
async fn room_that_is_promised_to_one_is_not_given_to_another() {
    let cache = Arc::new(Cache::new(tempfile::tempdir().unwrap().keep(), TWO));
    let (one, two) = (Sha256::of(b"1"), Sha256::of(b"2"));
    let (_coming, other) = (cache.expect(one), cache.expect(two));
    let admit = |sum, whole| cache.admit(sum, whole, &resume::Nothing);
    admit(one, 20_000).unwrap();
    let shortage = admit(two, 10_000).unwrap_err();
    assert_eq!((shortage.need, shortage.free), (10_000, 5_000));
    admit(one, 15_000).unwrap();
    admit(two, 10_000).unwrap();
    drop(other);
    admit(one, 25_000).unwrap();
    std::fs::remove_dir_all(cache.folder()).unwrap();
}
