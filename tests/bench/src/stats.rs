//! Medians and percentiles.

use std::time::Duration;

/// The middle one; of an even number the lower of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// The latency under which so many of a thousand are.
pub fn permille(latencies: &mut [Duration], permille: usize) -> Option<Duration> {
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    latencies.get((last * permille).div_ceil(1000)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_tail() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(1.0));
        assert_eq!(median(&[]), None);
        let mut latencies: Vec<_> = (1..=1000).rev().map(Duration::from_micros).collect();
        assert_eq!(permille(&mut latencies, 990), Some(Duration::from_micros(991)));
        assert_eq!(permille(&mut latencies, 1000), Some(Duration::from_micros(1000)));
        assert_eq!(permille(&mut [], 990), None);
    }
}
