//! The cache of the real boot server, killed at any moment and with a full disk: never a wrong byte.

#![allow(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

mod site;

use std::{sync::Arc, time::Duration};

use magnetite_api::Sha256;
use rand::{Rng, SeedableRng, rngs::StdRng};
use site::{Site, Upstream, address, inside, run};

const MIB: usize = 1 << 20;
const KILLS: usize = 50;

fn noise(seed: u64, bytes: usize) -> Arc<Vec<u8>> {
    let mut file = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill(&mut file[..]);
    Arc::new(file)
}

#[test]
fn killed_at_any_moment_it_leaves_no_wrong_byte_and_goes_on_where_it_was() {
    if !inside("killed_at_any_moment_it_leaves_no_wrong_byte_and_goes_on_where_it_was", 1) {
        return;
    }
    let seed = 0x4d61_676e_6574;
    let (mut random, file) = (StdRng::seed_from_u64(seed), noise(1, 16 * MIB));
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::start(&address(1), Arc::clone(&file)));
    let site = Site::new(folder.path(), &address(1), b"kernel", &upstream.url, Sha256::of(&file));
    let mut whole = 0;
    for kill in 0..KILLS {
        // One time in five all of it comes, so that it is killed while it syncs and renames.
        let stop = if kill % 5 == 4 { usize::MAX } else { random.random_range(0..6 * MIB) };
        let answers = upstream.line.change(|line| {
            (line.stop_after, line.stopped, line.ready) = (Some(stop), false, false);
            line.answers
        });
        let server = site.start(&upstream);
        // What was whole when it was killed last time is not asked for again.
        upstream.line.wait("the line to stop", |line| line.ready || line.stopped && line.answers > answers);
        // Not to wait for anything: it is in the midst of something else each time.
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        server.kill();
        if site.no_wrong_byte() {
            // The next begins with nothing.
            whole += 1;
            std::fs::remove_file(site.cache().join(Sha256::of(&file).to_string())).unwrap();
        }
        upstream.line.change(|line| line.stop_after = None);
        if kill % 10 == 9 {
            eprintln!("killed {} times; whole {whole} times", kill + 1);
        }
    }
    let before = upstream.line.change(|line| (line.parts, line.sent));
    let server = site.start(&upstream);
    server.logs(0, &["artifact ready", &upstream.url]);
    assert_eq!(site.get("initrd/0"), ("HTTP/1.1 200 OK".to_owned(), file.to_vec()));
    server.kill();
    eprintln!("{} of the answers were parts, {} MiB in all, seed {seed:#x}", before.0, before.1 / MIB);
    assert!(before.0 > KILLS / 3, "it goes on where it was");
    assert!(site.no_wrong_byte());
}

#[test]
fn a_full_disk_stops_nothing_but_the_new_fetch_and_only_while_it_is_full() {
    if !inside("a_full_disk_stops_nothing_but_the_new_fetch_and_only_while_it_is_full", 5) {
        return;
    }
    let file = noise(2, 24 * MIB);
    std::thread::scope(|scope| {
        for (number, share) in [0, 25, 50, 75, 99].into_iter().enumerate() {
            let file = Arc::clone(&file);
            scope.spawn(move || fill_up(u8::try_from(number).unwrap() + 1, share, &file));
        }
    });
}

/// Fills a disk of 64 MiB when so many percent of a file have come.
fn fill_up(number: u8, share: usize, file: &Arc<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", path.to_str().unwrap()]);
    let upstream = Upstream::start(&address(number), Arc::clone(file));
    let site = Site::new(path, &address(number), b"kernel", &upstream.url, Sha256::of(file));
    upstream.line.change(|line| line.stop_after = Some(file.len() / 100 * share));
    let server = site.start(&upstream);
    server.logs(0, &["artifact ready", "kernel"]);
    upstream.line.wait("the line to stop", |line| line.stopped);
    let rest = std::fs::write(path.join("filler"), vec![0; 64 * MIB]);
    assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    upstream.line.change(|line| line.stop_after = None);

    server.logs(0, &["artifact not served", &upstream.url, "make room there"]);
    assert_eq!(site.get("kernel"), ("HTTP/1.1 200 OK".to_owned(), b"kernel".to_vec()), "what is there is served");
    let (status, words) = site.get("initrd/0");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable", "{}", String::from_utf8_lossy(&words));
    assert!(!site.no_wrong_byte());

    let lines = server.lines();
    std::fs::remove_file(path.join("filler")).unwrap();
    let took = server.logs(lines, &["artifact ready", &upstream.url]);
    eprintln!("full at {share} %: ready {:.1} s after there was room", took.as_secs_f64());
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(site.get("initrd/0").1, **file);
    assert!(site.no_wrong_byte());
    server.kill();
    run("umount", &[path.to_str().unwrap()]);
}
