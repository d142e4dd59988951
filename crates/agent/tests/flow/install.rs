//! The agent as an installer: a box whose disks are files.

use std::fs;

use magnetite_api::{
    Sha256,
    install::{DiskHints, ImageFormat},
    join::InstallOrder,
    time::seconds,
};

use crate::{
    node_box::{NodeBox, told},
    site::Site,
};

const DISK: u64 = 8 << 20;

/// A box with two disks, of 8 and 16 MiB, and nothing on them that anybody knows.
fn box_with_disks() -> NodeBox {
    let node = NodeBox::fresh();
    fs::remove_dir_all(node.at("/sys/block")).expect("removed");
    for (name, size) in [("vda", DISK), ("vdb", 2 * DISK)] {
        fs::create_dir_all(node.at(&format!("/sys/block/{name}/device"))).expect("made");
        fs::write(node.at(&format!("/sys/block/{name}/size")), (size / 512).to_string()).expect("written");
        fs::write(node.at(&format!("/sys/block/{name}/serial")), format!("SERIAL-{name}")).expect("written");
        fs::create_dir_all(node.at("/dev")).expect("made");
        fs::write(node.at(&format!("/dev/{name}")), vec![7; size as usize]).expect("written");
    }
    node
}

fn image() -> Vec<u8> {
    let mut image = vec![0; 3 << 20];
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[2 << 20..(2 << 20) + 1000].fill(9);
    image
}

fn order(site: &Site, intent: &str, opened: i64) -> InstallOrder {
    InstallOrder {
        machine: "uid-1".into(),
        intent: intent.into(),
        opened_at: seconds(jiff_at(opened)),
        image: format!("http://{}/image", site.images),
        sha256: Sha256::of(&image()),
        format: ImageFormat::Raw,
        disk: DiskHints { serial: Some("SERIAL-vda".into()), ..DiskHints::default() },
        config: None,
    }
}

fn jiff_at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000 + second).expect("a time")
}

fn fix(site: &Site, order: InstallOrder) {
    let mut fixed = site.fixed();
    (fixed.order, fixed.image) = (Some(order), image());
}

#[tokio::test]
async fn a_box_is_installed_marked_and_restarted_and_not_a_second_time() {
    let site = Site::start(&[], &[]);
    let node = box_with_disks();
    fix(&site, order(&site, "created", 10));
    let output = node.run(&site, &["--task=install"]).await;
    assert!(output.status.success(), "{}", told(&output));
    let disk = fs::read(node.at("/dev/vda")).expect("read");
    assert!(
        disk[..1_000_000] == image()[..1_000_000] && disk[1 << 20..3 << 20] == image()[1 << 20..],
        "{}",
        told(&output)
    );
    assert!(fs::read(node.at("/dev/vdb")).expect("read").iter().all(|byte| *byte == 7), "the other is not touched");
    let reported = site.reported();
    assert_eq!(
        (reported.first().map(String::as_str), reported.last().map(String::as_str)),
        (Some("AgentStarted"), Some("Installed"))
    );
    assert_eq!(node.calls(), ["reboot"]);

    // The report was lost, and the API knows nothing: the disk knows.
    let before = fs::read(node.at("/dev/vda")).expect("read");
    let output = node.run(&site, &["--task=install"]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert!(fs::read(node.at("/dev/vda")).expect("read") == before);
    assert_eq!(node.calls(), ["reboot", "reboot"]);

    // R24: an older intent, out of a backup, installs nothing and wipes nothing, and says so.
    fix(&site, order(&site, "older", 5));
    let failed = "Installing failed: IntentAlreadyDone".to_owned();
    tokio::select! {
        output = node.run(&site, &["--task=install"]) => panic!("it waits for a person: {}", told(&output)),
        () = until(|| site.reported().contains(&failed)) => {}
    }
    assert!(fs::read(node.at("/dev/vda")).expect("read") == before);

    // Another intent is another install.
    fix(&site, order(&site, "again", 20));
    assert!(node.run(&site, &["--task=install"]).await.status.success());
    assert!(fs::read(node.at("/dev/vda")).expect("read") != before, "another mark");
}

#[tokio::test]
async fn what_is_wrong_is_said_and_tried_again_and_nothing_boots() {
    let site = Site::start(&[], &[]);
    let node = box_with_disks();
    let good = order(&site, "created", 10);
    fix(&site, InstallOrder { disk: DiskHints::default(), ..good.clone() });
    tokio::select! {
        output = node.run(&site, &["--task=install"]) => panic!("it tries again: {}", told(&output)),
        () = until(|| site.reported().contains(&"Installing failed: NoDiskChosen".to_owned())) => {}
    }
    assert!(fs::read(node.at("/dev/vda")).expect("read").iter().all(|byte| *byte == 7), "nothing was touched");
    let message = site.fixed().reports.last().and_then(|report| report.failure.clone()).expect("a failure").message;
    assert!(message.contains("vda (8 MB, serial SERIAL-vda) and vdb (16 MB"), "{message}");

    fix(&site, InstallOrder { sha256: Sha256([9; 32]), ..good.clone() });
    tokio::select! {
        output = node.run(&site, &["--task=install"]) => panic!("it tries again: {}", told(&output)),
        () = until(|| site.reported().contains(&"Installing failed: ImageWrongSum".to_owned())) => {}
    }
    let disk = fs::read(node.at("/dev/vda")).expect("read");
    assert!(disk[..1 << 20].iter().all(|byte| *byte == 0), "nothing that boots is there");

    // It does not give up: with what is right it goes on by itself.
    fix(&site, InstallOrder { format: ImageFormat::Gzip, ..good.clone() });
    tokio::select! {
        output = node.run(&site, &["--task=install"]) => assert!(output.status.success(), "{}", told(&output)),
        () = async {
            until(|| site.reported().contains(&"Installing failed: ImageUnreadable".to_owned())).await;
            fix(&site, good.clone());
            std::future::pending::<()>().await;
        } => {}
    }
    assert_eq!(site.reported().last().map(String::as_str), Some("Installed"));
}

/// S23: every disk reads as zeros, the removable one is left alone, the record says what was done, and the box is off.
#[tokio::test]
async fn a_box_is_wiped_only_by_the_word_of_the_pinned_server() {
    let site = Site::start(&[], &[]);
    let node = box_with_disks();
    fs::write(node.at("/sys/block/vdb/removable"), "1\n").expect("written");
    // Another intent's word is no word for this one.
    site.fixed().wipe = Some("wipe-other");
    tokio::select! {
        output = node.run(&site, &["--task=wipe"]) => panic!("it asks again: {}", told(&output)),
        () = until(|| site.reported().contains(&"Wiping failed: WrongAnswer".to_owned())) => {}
    }
    assert!(fs::read(node.at("/dev/vda")).expect("read").iter().all(|byte| *byte == 7), "nothing was touched");
    site.fixed().wipe = Some("created");
    let output = node.run(&site, &["--task=wipe"]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert!(fs::read(node.at("/dev/vda")).expect("read").iter().all(|byte| *byte == 0));
    assert!(fs::read(node.at("/dev/vdb")).expect("read").iter().all(|byte| *byte == 7), "somebody's own");
    assert_eq!(node.calls(), ["poweroff"]);
    let fixed = site.fixed();
    let last = fixed.reports.last().expect("a report");
    let [disk] = last.wiped.as_slice() else { panic!("{last:?}") };
    assert_eq!((last.step.as_str(), disk.name.as_str(), disk.serial.as_deref()), ("Wiped", "vda", Some("SERIAL-vda")));
    assert!(disk.bytes == DISK as i64 && disk.verified_bytes >= 2 << 20 && disk.methods.len() == 1, "{disk:?}");
}

async fn until(mut done: impl FnMut() -> bool) {
    let settled = async {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(50), settled).await.expect("it comes to that");
}
