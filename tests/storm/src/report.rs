//! What became of a crowd.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::transfer::UNHEARD;

/// Figures of one run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many boxes there were.
    pub boxes: usize,
    /// How many booted in their first attempt, in their second, and so on.
    pub booted: Vec<usize>,
    /// How long each wait for a proxy's offer was: one a DHCP exchange.
    pub offers: Vec<Duration>,
    /// How long after power-on (the first) each script came.
    pub scripts: Vec<Duration>,
    /// Why attempts failed, and how often.
    pub failures: BTreeMap<String, usize>,
}

impl Report {
    /// Boxes that booted within so many attempts.
    pub fn within(&self, attempts: usize) -> usize {
        self.booted.iter().take(attempts).sum()
    }

    /// The share of boxes that booted within so many attempts, in percent.
    pub fn percent(&self, attempts: usize) -> f64 {
        self.within(attempts) as f64 * 100.0 / self.boxes.max(1) as f64
    }

    /// Transfers that failed though the server was heard, and those that failed since nothing of it was.
    pub fn transfers_failed(&self) -> (usize, usize) {
        let count = |unheard: bool| {
            let is_unheard = |why: &str| UNHEARD.iter().any(|silence| why.ends_with(silence));
            let of_tftp = self.failures.iter().filter(|(why, _)| why.contains("TFTP"));
            of_tftp.filter(|(why, _)| is_unheard(why) == unheard).map(|(_, count)| count).sum()
        };
        (count(false), count(true))
    }

    /// The wait under which so many of a thousand are; none if there was none.
    pub fn permille(sorted: &[Duration], permille: usize) -> Option<Duration> {
        let last = sorted.len().checked_sub(1)?;
        sorted.get((last * permille).div_ceil(1000)).copied()
    }

    /// Puts the waits in order.
    pub(crate) fn sort(&mut self) {
        self.offers.sort_unstable();
        self.scripts.sort_unstable();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |sorted: &[Duration], permille| {
            Self::permille(sorted, permille)
                .map_or_else(|| "-".into(), |wait| format!("{:.0}", wait.as_secs_f64() * 1e3))
        };
        write!(f, "{} boxes: {:.2} % booted in one attempt", self.boxes, self.percent(1))?;
        for attempts in [2, 3, 5] {
            if self.within(attempts) > self.within(attempts - 1) {
                write!(f, ", {:.2} % within {attempts}", self.percent(attempts))?;
            }
        }
        let offers = [500, 990, 999, 1000].map(|permille| ms(&self.offers, permille)).join(" / ");
        let scripts = [500, 990, 1000].map(|permille| ms(&self.scripts, permille)).join(" / ");
        write!(
            f,
            "; offers after {offers} ms (p50 / p99 / p99.9 / last), scripts after {scripts} ms (p50 / p99 / last)"
        )?;
        for (why, count) in &self.failures {
            write!(f, "\n    {count} x {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_that_broke_are_told_from_those_that_never_began() {
        let why =
            ["firmware: TFTP: no next block", "firmware: TFTP: no answer to the request", "firmware: no offer came"];
        let failures = why.iter().zip([3, 2, 9]).map(|(why, count)| ((*why).to_owned(), count)).collect();
        assert_eq!(Report { failures, ..Report::default() }.transfers_failed(), (3, 2));
    }

    #[test]
    fn shares_and_tails() {
        let mut report = Report { boxes: 1000, booted: vec![990, 9, 1], ..Report::default() };
        report.offers = (1..=1000).rev().map(Duration::from_millis).collect();
        report.failures.insert("no answer".into(), 11);
        report.sort();
        assert_eq!((report.within(3), report.percent(1).to_bits()), (1000, 99.0_f64.to_bits()));
        let text = report.to_string();
        assert!(
            text.contains("99.00 % booted in one attempt, 99.90 % within 2, 100.00 % within 3; offers after 501"),
            "{text}"
        );
        assert!(text.ends_with("11 x no answer"), "{text}");
    }
}
