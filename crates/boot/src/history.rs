//! From what several boot servers saw of a machine to its newest boot and the boots before it.

use jiff::{SignedDuration, Timestamp};
use magnetite_api::report::{BootRecord, EarlierBoot, MOST_PREVIOUS};

/// Boot servers' clocks may differ by this much.
pub const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// The newest boot of a machine, with the boots before it: from what boot servers report, and from what was kept of
/// their earlier reports.
///
/// Two boot servers see one boot when both hear a broadcast, and only one of them goes on. So of those that were still
/// heard of after the newest began, the one that came furthest tells.
pub fn newest(kept: Option<BootRecord>, reported: Vec<BootRecord>) -> Option<BootRecord> {
    let all: Vec<_> = kept.iter().chain(&reported).flat_map(BootRecord::history).collect();
    let newest = reported.iter().map(|boot| boot.started_at.0).max();
    // A report that was deleted must not take the boot with it; but a report wins over our copy of it.
    let kept = kept.filter(|kept| newest.is_none_or(|newest| newest < kept.started_at.0));
    let began = kept.iter().chain(&reported).map(|boot| boot.started_at.0).max()?;
    let same_boot = reported.into_iter().chain(kept).filter(|boot| boot.last_seen.0 + SKEW >= began);
    let furthest = |boot: &BootRecord| (boot.furthest().map(|step| step.name), boot.last_seen.0);
    let boot = same_boot.max_by_key(furthest)?;
    // Overheard by one server a moment sooner than by another, it is still this boot.
    let previous = earlier(all, boot.started_at.0.min(began) - SKEW);
    Some(BootRecord { previous, ..boot })
}

/// The boots that began before a moment, newest first; one that several servers saw, once.
fn earlier(mut all: Vec<EarlierBoot>, before: Timestamp) -> Vec<EarlierBoot> {
    all.retain(|boot| boot.started_at.0 < before);
    all.sort_by_key(|boot| std::cmp::Reverse((boot.started_at.0, boot.furthest)));
    let mut out: Vec<EarlierBoot> = Vec::new();
    for boot in all {
        match out.last_mut() {
            Some(last) if last.started_at.0 <= boot.started_at.0 + SKEW => {
                if boot.furthest > last.furthest {
                    *last = boot;
                }
            }
            _ => out.push(boot),
        }
    }
    out.truncate(MOST_PREVIOUS);
    out
}

#[cfg(test)]
mod tests {
    use magnetite_api::report::BootStepName::{self, FirmwareSeen, NodeReady, ScriptServed};

    use super::*;
    use crate::fixtures::{at, boot, step};

    fn began(boots: &[EarlierBoot]) -> Vec<(i64, Option<BootStepName>)> {
        boots.iter().map(|boot| (boot.started_at.0.duration_since(at(0)).as_secs(), boot.furthest)).collect()
    }

    #[test]
    fn boots_at_two_servers_become_one_history() {
        let first = BootRecord { previous: vec![], ..boot(0, &[step(FirmwareSeen, 0), step(NodeReady, 60)]) };
        let at_a = BootRecord { previous: first.history(), ..boot(500, &[step(FirmwareSeen, 500)]) };
        // The other server heard the first boot's broadcast two seconds later by its clock, and served the second.
        let heard = boot(2, &[step(FirmwareSeen, 2)]);
        let at_b = BootRecord { previous: heard.history(), ..boot(498, &[step(ScriptServed, 510)]) };
        let newest = newest(None, vec![at_a, at_b]).unwrap();
        assert_eq!(newest.furthest().unwrap().name, ScriptServed);
        assert_eq!(began(&newest.previous), [(0, Some(NodeReady))]);
    }

    #[test]
    fn the_history_outlives_its_report_and_is_bounded() {
        let mut kept = boot(0, &[step(FirmwareSeen, 0)]);
        for start in 1..9 {
            kept = BootRecord { previous: kept.history(), ..boot(start * 100, &[step(FirmwareSeen, start * 100)]) };
        }
        assert_eq!(kept.previous.len(), MOST_PREVIOUS);
        let fresh = boot(900, &[step(FirmwareSeen, 900)]);
        let newest = newest(Some(kept), vec![fresh]).unwrap();
        let starts: Vec<_> = began(&newest.previous).into_iter().map(|(start, _)| start).collect();
        assert_eq!(starts, [800, 700, 600, 500, 400]);
    }
}
