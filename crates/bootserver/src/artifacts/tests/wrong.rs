//! Bytes that changed on the line or on the disk are never served.

use super::{upstream::*, *};

fn content() -> Vec<u8> {
    (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect()
}

fn flipped() -> Vec<u8> {
    let mut file = content();
    file[123_456] ^= 1;
    file
}

#[tokio::test]
async fn a_bit_that_flips_on_the_line_is_found_and_the_file_fetched_again() {
    let upstream = Upstream::start(Ways { file: flipped(), ..Ways::default() }).await;
    let far = by_url(upstream.url(), &content());
    let mut shelf = Shelf::new();
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    let report = shelf.becomes(&far, ArtifactState::WrongSum).await;
    let (got, want) = (Sha256::of(&flipped()), far.sha256);
    let words = format!("f: http://{}/file?… has SHA-256 {got}, and {want} is declared", upstream.address);
    assert!(report.message.unwrap().starts_with(&words));
    assert!(shelf.cached().is_empty() && shelf.library.get(&far).is_none());
    upstream.change(|ways| ways.file = content());
    shelf.becomes(&far, ArtifactState::Ready).await;
    assert_eq!(std::fs::read(shelf.library.get(&far).unwrap().path()).unwrap(), content());
    shelf.stop().await;
}

#[tokio::test]
async fn one_that_changes_in_the_cache_is_not_served_from_then_on_and_is_fetched_again() {
    let upstream = Upstream::start(Ways { file: content(), ..Ways::default() }).await;
    let far = by_url(upstream.url(), &content());
    let mut shelf = Shelf::new();
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    shelf.becomes(&far, ArtifactState::Ready).await;
    let checked = shelf.library.get(&far).unwrap();
    let before = std::fs::metadata(checked.path()).unwrap();
    std::fs::write(checked.path(), flipped()).unwrap();
    let file = std::fs::File::options().write(true).open(checked.path()).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert!(!checked.is_same(&std::fs::metadata(checked.path()).unwrap()), "so HTTP sends nothing of it");
    until("it to be as it was", || std::fs::read(checked.path()).is_ok_and(|file| file == content())).await;
    assert_eq!(upstream.asked().len(), 2);
    shelf.becomes(&far, ArtifactState::Ready).await;
    shelf.stop().await;
}

/// What is in the cache is enough, wherever it came from: an earlier process, or a person of a site without Internet.
#[tokio::test]
async fn while_whoever_has_it_is_away_it_is_served_from_the_cache() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let far = by_url(format!("http://{nobody}/vmlinuz"), &content());
    let mut shelf = Shelf::new();
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    shelf.becomes(&far, ArtifactState::Failed).await;
    // Put there whole, as a rename does.
    let cache = shelf.folder.path().join("cache");
    std::fs::write(cache.join("vmlinuz"), content()).unwrap();
    std::fs::rename(cache.join("vmlinuz"), cache.join(far.sha256.to_string())).unwrap();
    shelf.becomes(&far, ArtifactState::Ready).await;
    assert!(shelf.library.get(&far).is_some());
    shelf.stop().await;
}
