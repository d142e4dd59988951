//! A gate before a boot server's HTTP port that says "not yet" for a while, as a boot server does: 503 and Retry-After. How long a real
//! iPXE and a real Ignition put up with that is theirs to show.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lan::Lan;
use crate::net::SERVER;
use crate::proc::Cmd;
use crate::rogue::in_netns;
use crate::scenarios::ensure;

/// Where the boot server is, and where the gate is.
const PORTS: (u16, u16) = (8080, 8090);
/// How the paths end that wait: the script and the kernel are iPXE's to ask for, the config is Ignition's.
const WAIT: [&str; 3] = ["/boot.ipxe", "/kernel", "/config.ign"];
/// The longest head of a request that is read.
const HEAD: u64 = 16 << 10;
const RETRY_AFTER: u32 = 5;

/// For how long one path was refused, and how often.
#[derive(Debug, Clone, Copy)]
struct Refused {
    first: Instant,
    last: Instant,
    count: u32,
}

/// What was refused, by the end of its path.
#[derive(Debug, Default)]
struct Seen(Mutex<BTreeMap<&'static str, Refused>>);

impl Seen {
    /// True as long as an asker has to wait; each path waits from the first time that it is asked for.
    fn refuses(&self, path: &str, patience: Duration, now: Instant) -> bool {
        let Some(end) = WAIT.into_iter().find(|end| path.ends_with(end)) else { return false };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = seen.entry(end).or_insert(Refused { first: now, last: now, count: 0 });
        let refuses = now.duration_since(refused.first) < patience;
        if refuses {
            (refused.last, refused.count) = (now, refused.count + 1);
        }
        refuses
    }
}

/// A gate that stands until it is dropped.
pub struct Gate {
    netns: String,
    patience: Duration,
    seen: Arc<Seen>,
    gone: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gate {
    /// Puts a gate before the LAN's boot server. Script, kernel and config are each refused for `patience` from the first time that they
    /// are asked for; everything else passes.
    pub fn put(lan: &Lan, patience: Duration) -> Result<Self> {
        let netns = lan.network().server();
        let listener = in_netns(&netns, || TcpListener::bind(("0.0.0.0", PORTS.1)).context("listen"))?;
        listener.set_nonblocking(true)?;
        let rules = format!(
            "table ip gate {{\n  chain in {{\n    type nat hook prerouting priority -100\n    tcp dport {} redirect to :{}\n  }}\n}}\n",
            PORTS.0, PORTS.1
        );
        Cmd::new("nft").netns(&netns).args(["-f", "-"]).input(rules).run()?;
        let (seen, gone) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (netns, seen, gone) = (netns.clone(), Arc::clone(&seen), Arc::clone(&gone));
            move || {
                while !gone.load(Ordering::Relaxed) {
                    let Ok((asker, _)) = listener.accept() else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    let (netns, seen) = (netns.clone(), Arc::clone(&seen));
                    // Who hangs up asks again.
                    std::thread::spawn(move || drop(pass(asker, &netns, &seen, patience)));
                }
            }
        });
        Ok(Self { netns, patience, seen, gone, thread: Some(thread) })
    }

    /// Fails unless each path was asked for over and over until it was given. Says how often.
    pub fn held(&self) -> Result<String> {
        let seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = Vec::new();
        for end in WAIT {
            let refused = seen.get(end).with_context(|| format!("nobody asked for {end}"))?;
            let waited = refused.last.duration_since(refused.first);
            // Ignition's tries are up to five seconds apart, iPXE's as far as it was told.
            let patient = refused.count >= 3 && waited + Duration::from_secs(15) >= self.patience;
            ensure!(patient, "{end} was refused {} times in {} s", refused.count, waited.as_secs());
            said.push(format!("{end} {} times in {} s", refused.count, waited.as_secs()));
        }
        Ok(said.join(", "))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        // The namespace goes with its rules, if it is gone already.
        drop(Cmd::new("nft").netns(&self.netns).args(["delete", "table", "ip", "gate"]).run());
    }
}

/// One request: refused, or passed on with the answer passed back. A connection is good for one, so that each is seen.
fn pass(mut asker: TcpStream, netns: &str, seen: &Seen, patience: Duration) -> Result<()> {
    asker.set_nonblocking(false)?;
    asker.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = BufReader::new(asker.try_clone()?.take(HEAD)).lines();
    let request = head.next().context("a request")??;
    let mut passed = format!("{request}\r\nConnection: close\r\n");
    for line in head.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            passed.push_str(&line);
            passed.push_str("\r\n");
        }
    }
    passed.push_str("\r\n");
    let path = request.split(' ').nth(1).unwrap_or_default();
    if seen.refuses(path, patience, Instant::now()) {
        let body = r#"{"reason":"NotYet","message":"come again"}"#;
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return asker.write_all(answer.as_bytes()).context("refuse");
    }
    let mut server = in_netns(netns, || TcpStream::connect((SERVER, PORTS.0)).context("reach the boot server"))?;
    server.write_all(passed.as_bytes())?;
    copy(&mut server, &mut asker)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_waits_from_when_it_is_first_asked_for() {
        let (seen, now, patience) = (Seen::default(), Instant::now(), Duration::from_secs(20));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(seen.refuses("/m/1/2/x86_64/boot.ipxe", patience, now));
        assert!(!seen.refuses("/m/1/2/x86_64/initrd/0", patience, now));
        assert!(seen.refuses("/m/1/2/x86_64/boot.ipxe", patience, at(19)));
        assert!(!seen.refuses("/m/1/2/x86_64/boot.ipxe", patience, at(20)));
        assert!(seen.refuses("/m/1/2/x86_64/kernel", patience, at(21)));
    }
}
