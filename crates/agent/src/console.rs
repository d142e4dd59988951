//! What a person in front of the box has to see, whatever the log is set to: the fingerprint of its key.

use std::{fs::OpenOptions, io::Write};

use magnetite_api::Fingerprint;
use magnetite_daemon::log::chain;

use crate::files::Paths;

/// The kernel's console, which is the screen and the serial line, as its command line says.
const CONSOLE: &str = "/dev/console";

/// Shows the key with which a machine claims.
pub fn show_key(paths: &Paths, machine: &str, key: Fingerprint) {
    show(paths, &format!("this box claims to be the Machine {machine}; its key is {key}"));
}

/// Shows that a person has to approve the key.
pub fn show_wait(paths: &Paths, machine: &str, key: Fingerprint) {
    show(paths, &format!("waits for approval: kubectl magnetite approve {machine} {key}"));
}

/// Shows what becomes of the box, or of its disks.
pub fn show_work(paths: &Paths, text: &str) {
    show(paths, text);
}

/// One line. A box without a console claims as well, so that this fails is no error.
fn show(paths: &Paths, text: &str) {
    let line = format!("\r\nmagnetite: {text}\r\n");
    // Opened anew each time, and never made: what is not there is no console.
    let written = OpenOptions::new().append(true).open(paths.at(CONSOLE));
    if let Err(error) = written.and_then(|mut console| console.write_all(line.as_bytes())) {
        tracing::debug!(error = chain(&error), "nothing was shown on the console");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_console_shows_what_the_cluster_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = Paths::new(folder.path(), Path::new("/state"));
        show_key(&paths, "box-1", Fingerprint([1; 8]));
        let console = paths.at(CONSOLE);
        assert!(!console.exists(), "no console is made where there is none");
        std::fs::create_dir_all(console.parent().expect("a folder")).expect("made");
        std::fs::write(&console, "").expect("made");
        show_key(&paths, "box-1", Fingerprint([1; 8]));
        show_wait(&paths, "box-1", Fingerprint([1; 8]));
        let shown = std::fs::read_to_string(&console).expect("readable");
        assert!(shown.contains("the Machine box-1; its key is 0101-0101-0101-0101\r\n"), "{shown}");
        assert!(shown.contains("kubectl magnetite approve box-1 0101-0101-0101-0101\r\n"), "{shown}");
    }
}
