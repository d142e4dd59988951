//! A folder that changes while it is served.

use std::path::Path;

use tokio::sync::watch;

use super::*;
use crate::fixtures::until;

const MACHINE: &str =
    "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {name: box}\nspec: {macs: ['52:54:00:30:00:10']}\n";

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

struct Site {
    folder: tempfile::TempDir,
    reader: watch::Receiver<Arc<View>>,
    windows: Arc<Windows>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), CatalogError>>,
}

fn key() -> CapabilityKey {
    CapabilityKey::new([7; 32])
}

/// A folder that is looked after.
fn site(files: &[(&str, &str)]) -> Site {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("catalog")).unwrap();
    write(&folder.path().join("catalog"), files);
    let (writer, reader) = watch::channel(Arc::new(View::default()));
    let windows = Arc::new(Windows::load(folder.path()));
    let mut kept = Folder::new(folder.path().join("catalog"), Arc::clone(&windows), key(), writer, Metrics::default());
    kept.look().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(kept.run(stop.clone()));
    Site { folder, reader, windows, stop, running }
}

impl Site {
    fn machines(&self) -> usize {
        self.reader.borrow().fleet.machines().count()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_file_that_comes_is_seen_and_reading_is_no_change() {
    let mut site = site(&[("a.yaml", MACHINE)]);
    assert_eq!(site.machines(), 1, "there before anything is served");
    site.reader.mark_unchanged();
    // Our own reading opens files, and must not wake us to read again.
    for _ in 0..20 {
        std::fs::read(site.folder.path().join("catalog/a.yaml")).unwrap();
    }
    let second = MACHINE.replace("box", "second").replace(":10'", ":11'");
    write(&site.folder.path().join("catalog"), &[("new/b.yaml", &second)]);
    until("the new file to be seen", || site.machines() == 2).await;
    let old = Arc::clone(&site.reader.borrow_and_update());
    assert!(old.windows.contains_key("second"), "with a window of its own");
    write(&site.folder.path().join("catalog"), &[("new/b.yaml", "kind: [")]);
    until("the broken file to be left out", || site.machines() == 1).await;
    assert_eq!(site.windows.all().len(), 2, "its window is remembered");
    site.stop().await;
}

#[tokio::test]
async fn a_window_that_closes_is_in_the_view_at_once() {
    let site = site(&[("a.yaml", MACHINE)]);
    let state = || site.reader.borrow().windows["box"].state;
    assert_eq!(state(), magnetite_api::machine::IntentState::Open);
    site.windows.fulfil("box").unwrap();
    until("the view to know", || state() == magnetite_api::machine::IntentState::Fulfilled).await;
    site.stop().await;
}

#[test]
fn a_folder_that_is_not_there_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, _reader) = watch::channel(Arc::new(View::default()));
    let windows = Arc::new(Windows::load(folder.path()));
    let mut kept = Folder::new(folder.path().join("nothing"), windows, key(), writer, Metrics::default());
    assert!(matches!(kept.look(), Err(CatalogError::Read(..))));
}

#[test]
fn the_same_again_is_no_new_view() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.yaml", MACHINE)]);
    let (writer, mut reader) = watch::channel(Arc::new(View::default()));
    let windows = Arc::new(Windows::load(folder.path()));
    let mut kept = Folder::new(folder.path().to_owned(), windows, key(), writer, Metrics::default());
    kept.look().unwrap();
    reader.mark_unchanged();
    write(folder.path(), &[("a.yaml", MACHINE)]);
    kept.look().unwrap();
    assert!(!reader.has_changed().unwrap());
}
