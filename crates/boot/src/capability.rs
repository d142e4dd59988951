//! Capability URLs: they keep callers out that were never handed one by DHCP.
//!
//! A capability is an expiry and a MAC over purpose, Machine and intent. It is stateless, so a boot server
//! that restarts, or starts while the API server is away, checks it as before. It is no secret on the
//! provisioning network, where anyone can listen; it keeps out everybody else (threats.md, S9).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use kube::ResourceExt;
use magnetite_api::{MacAddr, Machine};

/// What a capability is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Script, kernel, initrds, files, Ignition config, agent binary: over plain HTTP.
    Boot,
    /// Claims and reports: over TLS.
    Agent,
    /// The machine's sealed files, which only its claim key opens: over TLS, for as long as the intent lasts.
    Sealed,
}

impl Purpose {
    fn tag(self) -> u8 {
        match self {
            Self::Boot => b'b',
            Self::Agent => b'a',
            Self::Sealed => b's',
        }
    }
}

/// The boot server's key for capabilities. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct CapabilityKey(Hmac<sha2::Sha256>);

impl std::fmt::Debug for CapabilityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CapabilityKey(..)")
    }
}

/// Bytes of the MAC that travel: 128 bits.
const MAC_LEN: usize = 16;

impl CapabilityKey {
    /// From 32 random bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(<Hmac<sha2::Sha256> as KeyInit>::new_from_slice(&key).expect("HMAC takes a key of any length"))
    }

    /// Makes a capability: 27 characters of base64url, good until `expires` (Unix seconds).
    pub fn mint(&self, purpose: Purpose, machine_key: &str, intent: &str, expires: u64) -> String {
        let expires = u32::try_from(expires).unwrap_or(u32::MAX).to_be_bytes();
        let tag = self.mac(purpose, machine_key, intent, expires).finalize().into_bytes();
        let mut raw = expires.to_vec();
        raw.extend(tag.iter().take(MAC_LEN));
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// True if the capability was made with this key for exactly this, and `now` (Unix seconds) is not past
    /// its expiry. The MAC is compared in constant time.
    pub fn check(&self, text: &str, purpose: Purpose, machine_key: &str, intent: &str, now: u64) -> bool {
        let Ok(raw) = URL_SAFE_NO_PAD.decode(text) else {
            return false;
        };
        let Some((expires, tag)) = raw.split_first_chunk::<4>() else {
            return false;
        };
        tag.len() == MAC_LEN
            && self.mac(purpose, machine_key, intent, *expires).verify_truncated_left(tag).is_ok()
            && now <= u64::from(u32::from_be_bytes(*expires))
    }

    /// A Machine's id in URLs: 16 hexadecimal digits that do not tell its name, and that nobody makes who has not the key. Where no
    /// API server gave the Machine a UID (a catalog), its name is all that there is to make an id of, and names are guessed. A name
    /// of 63 characters would not fit into the 128 bytes of the BOOTP `file` field either. The id stays as long as the key does: a
    /// shim asks for its second stage in the folder that it came from.
    ///
    /// A box that is held is known by its MAC: see [`held_mac`].
    pub fn machine_id(&self, machine: &Machine) -> String {
        if let Some(mac) = held_by(machine) {
            return held_id(mac);
        }
        format!("{:016x}", self.id_number(machine))
    }

    /// The same as a number.
    pub(crate) fn id_number(&self, machine: &Machine) -> u64 {
        let mut mac = self.0.clone();
        // No purpose has this tag, so no id is the MAC of a capability.
        mac.update(b"i");
        mac.update(machine_key(machine).as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(mac.finalize().into_bytes());
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn mac(&self, purpose: Purpose, machine_key: &str, intent: &str, expires: [u8; 4]) -> Hmac<sha2::Sha256> {
        // The key is worked in once: half of the work for so short a text.
        let mut mac = self.0.clone();
        mac.update(&[purpose.tag()]);
        mac.update(&expires);
        // A NUL between the two: neither can hold one, so no two pairs give the same bytes.
        mac.update(machine_key.as_bytes());
        mac.update(&[0]);
        mac.update(intent.as_bytes());
        mac
    }
}

/// The MAC by which a box is known that is held. Its links must not change when its Machine is made, while the box is on its way.
fn held_by(machine: &Machine) -> Option<MacAddr> {
    machine.spec.macs.first().copied().filter(|_| machine.is_held())
}

fn held_id(mac: MacAddr) -> String {
    format!("held-{}", mac.digits())
}

/// The MAC in the id of a box that is held. No other Machine's id has this form. Who reads such a link learns a MAC that he heard anyway, and
/// without the capability beside it, it is good for nothing.
pub fn held_mac(id: &str) -> Option<MacAddr> {
    MacAddr::of_digits(id.strip_prefix("held-")?)
}

/// What the links of a box that is held are bound by, whether it has a Machine yet or not. No name or UID has a `/`.
pub fn held_key(mac: MacAddr) -> String {
    format!("held/{mac}")
}

/// What a Machine is bound by: its UID, or its name where no API server gave it one (a catalog); while it is held, its MAC.
pub fn machine_key(machine: &Machine) -> String {
    if let Some(mac) = held_by(machine) {
        return held_key(mac);
    }
    machine.uid().filter(|uid| !uid.is_empty()).unwrap_or_else(|| machine.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_good_for_one_thing_until_its_time() {
        let key = CapabilityKey::new([7; 32]);
        let cap = key.mint(Purpose::Boot, "uid-1", "created", 1000);
        assert_eq!(cap.len(), 27);
        assert!(key.check(&cap, Purpose::Boot, "uid-1", "created", 1000));
        assert!(!key.check(&cap, Purpose::Boot, "uid-1", "created", 1001), "expired");
        assert!(!key.check(&cap, Purpose::Agent, "uid-1", "created", 1000), "another purpose");
        assert!(!key.check(&cap, Purpose::Boot, "uid-2", "created", 1000), "another machine");
        assert!(!key.check(&cap, Purpose::Boot, "uid-1", "again", 1000), "another intent");
        assert!(!CapabilityKey::new([8; 32]).check(&cap, Purpose::Boot, "uid-1", "created", 1000), "another key");
    }

    #[test]
    fn what_was_not_minted_is_refused() {
        let key = CapabilityKey::new([7; 32]);
        for text in ["", "A", "AAAAAAAAAAAAAAAAAAAAAAAAAAA", "../../etc/passwd", "äöü"] {
            assert!(!key.check(text, Purpose::Boot, "uid-1", "created", 0), "{text:?}");
        }
        // A cut MAC must not pass as a shorter one.
        let cap = key.mint(Purpose::Boot, "uid-1", "created", 1000);
        for end in 0..cap.len() {
            assert!(!key.check(&cap[..end], Purpose::Boot, "uid-1", "created", 0), "{end} characters of it");
        }
    }

    #[test]
    fn a_million_guesses_open_nothing() {
        let key = CapabilityKey::new([7; 32]);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        for _ in 0..1_000_000 {
            // In time, and of the right length: all that is wrong is the MAC.
            let guess = [&u32::MAX.to_be_bytes()[..], &next(), &next()].concat();
            assert!(!key.check(&URL_SAFE_NO_PAD.encode(&guess), Purpose::Boot, "uid-1", "created", 0), "{guess:?}");
        }
    }

    /// S9: of a Machine without a UID all but the key is known to whoever guesses its name.
    #[test]
    fn an_id_is_made_by_no_other_key() {
        let (ours, others) = (CapabilityKey::new([7; 32]), CapabilityKey::new([8; 32]));
        let named = |name: &str| Machine::new(name, magnetite_api::MachineSpec::default());
        let id = ours.machine_id(&named("rack1-07"));
        assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
        assert_eq!(id, ours.machine_id(&named("rack1-07")), "a shim finds its second stage beside it");
        assert_ne!(id, ours.machine_id(&named("rack1-08")));
        assert_ne!(id, others.machine_id(&named("rack1-07")));
        assert!(!magnetite_api::Sha256::of(b"rack1-07").to_string().starts_with(&id));
    }

    /// A box keeps its links when its Machine is made, and loses them when it is to be something.
    #[test]
    fn a_box_that_is_held_is_known_by_its_mac_alone() {
        use magnetite_api::{MachineSpec, discovery::HELD_INTENT};
        let key = CapabilityKey::new([7; 32]);
        let mac: MacAddr = "52:54:00:30:00:1a".parse().unwrap();
        let spec = MachineSpec { macs: vec![mac], hold: true, ..MachineSpec::default() };
        let stranger = Machine::new("box-52540030001a", spec.clone());
        let mut made = Machine::new("gpu-7", spec);
        made.metadata.uid = Some("uid-1".to_owned());
        assert_eq!(key.machine_id(&stranger), "held-52540030001a");
        assert_eq!((key.machine_id(&made), machine_key(&made)), (key.machine_id(&stranger), machine_key(&stranger)));
        assert_eq!((made.wanted_intent(), held_mac("held-52540030001a")), (HELD_INTENT, Some(mac)));
        let cap = key.mint(Purpose::Agent, &machine_key(&made), made.wanted_intent(), 1000);
        made.spec.hold = false;
        assert!(!key.check(&cap, Purpose::Agent, &machine_key(&made), made.wanted_intent(), 0));
        assert_eq!(key.machine_id(&made).len(), 16);
        for id in [
            "held-52540030001A",
            "held-52540030001",
            "held-5254003000100",
            "52540030001a",
            "held-",
            "held-é2540030001a",
        ] {
            assert_eq!(held_mac(id), None, "{id}");
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        assert_eq!(format!("{:?}", CapabilityKey::new([7; 32])), "CapabilityKey(..)");
    }
}
