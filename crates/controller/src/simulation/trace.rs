//! What happened, in words: a sum over all of it, and the last lines for whoever reads of a failure.

use std::collections::VecDeque;

/// So many lines are kept, unless `SIM_TRACE` says how many. All of them count in the sum.
const KEPT: usize = 120;

pub struct Trace {
    lines: VecDeque<String>,
    kept: usize,
    sum: u64,
    count: u64,
}

impl Trace {
    pub fn new() -> Self {
        let kept = std::env::var("SIM_TRACE").ok().and_then(|text| text.parse().ok()).unwrap_or(KEPT);
        Self { lines: VecDeque::new(), kept, sum: 0xcbf2_9ce4_8422_2325, count: 0 }
    }

    pub fn line(&mut self, now: i64, text: &str) {
        let line = format!("{:>10.3} {text}", now as f64 / 1000.0);
        // FNV-1a, not the library's hasher: that one may differ from one compiler to the next.
        for byte in line.bytes() {
            self.sum = (self.sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.count += 1;
        if self.lines.len() >= self.kept {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The sum over all lines, and how many there were.
    pub fn digest(&self) -> (u64, u64) {
        (self.sum, self.count)
    }

    pub fn tail(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
