//! Signs reports with the claim key, as soon as there is one: from then on nobody else can say how far this box is.

use std::path::PathBuf;

use magnetite_api::join::ReportRequest;
use magnetite_daemon::log::chain;

use crate::{
    files::{self, FileError, Paths},
    keys::{self, KeyError, Keys},
};

/// Which run of an agent with these keys it is. Beside the keys, since it must not be younger than they are.
const RUN: &str = "reports.run";
/// More than one run ever says.
const A_RUN: u64 = 1 << 20;

/// More runs than an agent has between two restarts of its box.
const RUNS: u64 = 1 << 10;

/// Signs the reports of one run.
pub struct Signer {
    paths: Paths,
    machine: String,
    intent: String,
    ready: Option<Ready>,
}

struct Ready {
    keys: Keys,
    /// Of the next report.
    number: u64,
}

impl Signer {
    /// Reads nothing yet: keys are made while reports are said already.
    pub fn new(paths: &Paths, machine: &str, intent: &str) -> Self {
        Self { paths: paths.clone(), machine: machine.to_owned(), intent: intent.to_owned(), ready: None }
    }

    /// The report, signed if there is a key. One without a signature is better than none: the boot server says whether it takes it.
    pub fn sign(&mut self, report: ReportRequest) -> ReportRequest {
        match self.attempt(&report) {
            Ok(signature) => ReportRequest { signature, ..report },
            Err(error) => {
                tracing::warn!(step = report.step.as_str(), error = chain(&error), "report not signed");
                report
            }
        }
    }

    fn attempt(&mut self, report: &ReportRequest) -> Result<Option<magnetite_api::join::ReportSignature>, KeyError> {
        if self.ready.is_none() && keys::exist(&self.paths)? {
            let keys = Keys::load(&self.paths)?;
            self.ready = Some(Ready { keys, number: first_number(&self.paths)? });
        }
        let Some(Ready { keys, number }) = &mut self.ready else { return Ok(None) };
        *number += 1;
        keys.sign_report(&self.machine, &self.intent, *number, report).map(Some)
    }
}

/// The last run, as it is remembered.
fn last_run(paths: &Paths) -> Result<u64, FileError> {
    let last = files::read(&paths.state(RUN))?;
    Ok(last.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok()).unwrap_or(0))
}

/// Runs after so many restarts of the box, all of which may be forgotten: each may have had [`RUNS`] of its own.
pub fn begin_after(paths: &Paths, restarts: u32) -> Result<(), FileError> {
    let run = last_run(paths)?.max(u64::from(restarts).saturating_mul(RUNS));
    files::write(&paths.state(RUN), 0o600, format!("{run}\n").as_bytes())
}

/// Numbers grow from run to run also where the clock does not.
fn first_number(paths: &Paths) -> Result<u64, FileError> {
    let path: PathBuf = paths.state(RUN);
    let run = last_run(paths)?.saturating_add(1);
    if let Err(error) = files::write(&path, 0o600, format!("{run}\n").as_bytes()) {
        // This run's are good all the same; those of the next may count as old.
        tracing::warn!(error = chain(&error), "which run this is is not remembered");
    }
    Ok(run.saturating_mul(A_RUN))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use magnetite_api::report::BootStepName;

    use super::*;

    #[test]
    fn reports_are_signed_once_there_are_keys_with_numbers_that_grow() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = Paths::new(folder.path(), Path::new("/state"));
        let report = ReportRequest {
            step: BootStepName::Claiming,
            detail: None,
            failure: None,
            inventory: None,
            wiped: Vec::new(),
            signature: None,
        };
        let number = |signer: &mut Signer| signer.sign(report.clone()).signature.map(|signature| signature.number);
        let mut first = Signer::new(&paths, "m", "i");
        assert_eq!(number(&mut first), None, "there is no key yet");
        keys::make(&paths, None).expect("made");
        let mut second = Signer::new(&paths, "m", "i");
        let numbers =
            [number(&mut first), number(&mut first), number(&mut second)].map(|number| number.expect("signed"));
        assert!(numbers.is_sorted() && numbers[0] < numbers[1] && numbers[1] < numbers[2], "{numbers:?}");
    }

    /// A box whose memory is all it has: the TPM alone knows how often it was switched on.
    #[test]
    fn a_box_that_forgot_all_goes_on_above_what_it_said() {
        let after = |restarts, runs| {
            let folder = tempfile::tempdir().expect("a folder");
            let paths = Paths::new(folder.path(), Path::new("/state"));
            files::folder(&paths.state(""), 0o700).expect("made");
            begin_after(&paths, restarts).expect("written");
            let numbers: Vec<u64> = (0..runs).map(|_| first_number(&paths).expect("a number")).collect();
            begin_after(&paths, 1).expect("written");
            assert!(first_number(&paths).expect("a number") > numbers[runs - 1], "what is on a disk is not forgotten");
            numbers
        };
        let (before, after) = (after(4, 100), after(5, 1));
        assert!(before.is_sorted() && before[99] + A_RUN < after[0]);
    }
}
