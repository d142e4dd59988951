//! What a client is answered, and what a machine does next.

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{
    Machine,
    install::WipeState,
    machine::{IntentState, IntentStatus},
    netboot::NetbootSpec,
    profile::OnReboot,
};

use crate::{
    client::Request,
    fleet::Found,
    ladder::{self, Platform},
    select::{Chosen, SelectError},
};

/// What a DHCP client is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Ignore(Ignored),
    /// A loader, by TFTP or HTTP as the client's class is.
    Loader {
        /// What the box is.
        platform: &'static Platform,
        /// The loader's name.
        file: String,
    },
    /// The machine's script: it is iPXE already, so another loader would be a loop.
    Script {
        /// What the box is, below iPXE.
        platform: &'static Platform,
    },
}

/// Why a client is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// No Machine declares it.
    Unknown,
    /// Two Machines claim its identity.
    Conflict,
    /// No loader is known for its architecture codes, or the one for it is not at hand.
    NoLoader,
}

impl Ignored {
    /// As a metric label and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Conflict => "conflict",
            Self::NoLoader => "no_loader",
        }
    }
}

/// What there is to choose a loader from.
pub struct Loaders<'a> {
    /// What Machine and Profile say of it.
    pub netboot: &'a NetbootSpec,
    /// Those that failed on this box.
    pub failed: &'a [String],
    /// Whether the boot server has a loader of a name.
    pub at_hand: &'a dyn Fn(&str) -> bool,
}

/// What a DHCP client is answered. A client that nobody declared gets nothing, whatever it is.
pub fn answer(request: &Request, found: &Found, loaders: &Loaders<'_>) -> Answer {
    match found {
        Found::Unknown => return Answer::Ignore(Ignored::Unknown),
        Found::Conflict(_) => return Answer::Ignore(Ignored::Conflict),
        Found::Machine(_) => {}
    }
    let Some(platform) = ladder::platform(request) else {
        return Answer::Ignore(Ignored::NoLoader);
    };
    if request.ipxe {
        return Answer::Script { platform };
    }
    match ladder::loader(platform, loaders.netboot, loaders.failed, loaders.at_hand) {
        Some(file) => Answer::Loader { platform, file },
        None => Answer::Ignore(Ignored::NoLoader),
    }
}

/// What a box is to do in the system that it boots over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The system is the Profile's, and its agent joins.
    Boot,
    /// The agent writes the Profile's system to a disk, and restarts the box.
    Install,
    /// The agent tells what the box is made of, and waits for what it is to be. Of a box that is held.
    Inventory,
    /// The agent wipes the box's disks, and switches it off. For a Machine that is being deleted, and no other.
    Wipe,
}

/// What a machine does once it runs its script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It boots over the network.
    Boot(Task),
    /// It goes on to its next boot device: no window is open.
    Local,
    /// It goes on to its next boot device, its disk: the system of this intent is installed there, and its window is open for it to join.
    Installed,
    /// It asks again later.
    Wait {
        /// Seconds until then.
        seconds: u32,
        /// Why, for the person at the console.
        why: String,
    },
}

/// What a machine does next. `intent` is the Machine's status in a cluster, the boot server's own record
/// without one. `conflicted`: another Machine claims the same identity. `installed`: somebody knows that the system of the wanted intent is on
/// the box's disk, so that no boot order makes a loop of installs.
pub fn next(
    machine: &Machine,
    profile: Result<&Chosen, &SelectError>,
    intent: Option<&IntentStatus>,
    conflicted: bool,
    installed: bool,
    now: Timestamp,
) -> Next {
    let wait = |seconds, why: String| Next::Wait { seconds, why };
    if machine.metadata.deletion_timestamp.is_some() {
        // Of two boxes that may both be it neither is wiped; nor one again that is.
        let wiped = machine.wanted_wipe().is_none_or(|wipe| wipe.state == WipeState::Wiped);
        let open = intent.is_some_and(|intent| intent.id == machine.wanted_intent() && window_is_open(intent, now));
        return if open && !wiped && !conflicted && profile.is_ok() { Next::Boot(Task::Wipe) } else { Next::Local };
    }
    if conflicted {
        return wait(60, format!("another Machine claims the same identity as {}", machine.name_any()));
    }
    let profile = match profile {
        Ok(profile) => profile,
        Err(error) => return wait(30, error.to_string()),
    };
    if machine.is_held() {
        // Whatever its windows say: `profile` is the one of discovery, or that of a machine which is out of service.
        return Next::Boot(Task::Inventory);
    }
    let Some(intent) = intent.filter(|intent| intent.id == machine.wanted_intent()) else {
        return wait(5, format!("the controller has not opened a boot window for {} yet", machine.name_any()));
    };
    match (window_is_open(intent, now), &profile.spec.install, profile.spec.boot.on_reboot) {
        (true, Some(_), _) if installed => Next::Installed,
        (true, Some(_), _) => Next::Boot(Task::Install),
        (true, None, _) | (false, None, OnReboot::Network) => Next::Boot(Task::Boot),
        // Outside a window nothing is ever installed, whatever `onReboot` says.
        (false, Some(_), _) | (false, None, OnReboot::Local) => Next::Local,
    }
}

/// Whether what a boot is made of (config, kernel, files, agent) is given to who has a machine's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opens {
    /// Yes: it boots.
    Yes,
    /// Not yet: something is missing that will come, or that somebody will mend.
    Later {
        /// Seconds until the box is to ask again.
        seconds: u32,
        /// Why.
        why: String,
    },
    /// No: nothing boots with it any more. A link outlives the window that it was made for.
    No,
}

/// Whether a machine's link opens what a boot is made of: as long as the machine would boot by its script.
pub fn opens(
    machine: &Machine,
    profile: Result<&Chosen, &SelectError>,
    intent: Option<&IntentStatus>,
    conflicted: bool,
    installed: bool,
    now: Timestamp,
) -> Opens {
    let over = intent.is_some_and(|intent| intent.id == machine.wanted_intent() && !window_is_open(intent, now));
    let local =
        profile.is_ok_and(|profile| profile.spec.boot.on_reboot == OnReboot::Local || profile.spec.install.is_some());
    match next(machine, profile, intent, conflicted, installed, now) {
        // An installed system fetches its agent in its first boot.
        Next::Boot(Task::Boot | Task::Install | Task::Inventory | Task::Wipe) | Next::Installed => Opens::Yes,
        Next::Local => Opens::No,
        // Its window is over, whoever else claims the same identity.
        Next::Wait { .. } if over && local => Opens::No,
        Next::Wait { seconds, why } => Opens::Later { seconds, why },
    }
}

/// True while the box may boot and claim. The expiry counts even if nobody has written `Expired` yet: the
/// API server may be away.
pub fn window_is_open(intent: &IntentStatus, now: Timestamp) -> bool {
    match intent.state {
        IntentState::Open => now < intent.expires_at.0,
        IntentState::Fulfilled | IntentState::Expired | IntentState::Frozen => false,
    }
}

#[cfg(test)]
mod tests {
    use magnetite_api::time::seconds;
    use rstest::rstest;

    use super::*;
    use crate::{
        client::ClientClass,
        fixtures::{machine, profile},
        fleet::Identity,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn intent(id: &str, state: IntentState) -> IntentStatus {
        IntentStatus { id: id.into(), state, opened_at: seconds(at(0)), expires_at: seconds(at(3600)) }
    }

    fn request(ipxe: bool, class: ClientClass, arch: u16) -> Request {
        Request { class, arches: vec![arch], ipxe, https: false, identity: Identity::default() }
    }

    #[test]
    fn firmware_gets_a_loader_and_ipxe_its_script() {
        let known = Found::Machine(machine("m").mac("52:54:00:00:00:01").arc());
        let name = |answer| match answer {
            Answer::Loader { file, .. } => file,
            Answer::Script { platform } => format!("script {}", platform.architecture),
            Answer::Ignore(why) => why.as_str().to_owned(),
        };
        let none = NetbootSpec::default();
        let loaders = Loaders { netboot: &none, failed: &[], at_hand: &|name| name != "snponly-arm64.efi" };
        for (request, found, want) in [
            (request(false, ClientClass::Pxe, 0), &known, "undionly.kpxe"),
            (request(false, ClientClass::Pxe, 7), &known, "snponly.efi"),
            (request(false, ClientClass::Pxe, 11), &known, "ipxe-arm64.efi"),
            (request(false, ClientClass::Http, 16), &known, "snponly.efi"),
            (request(true, ClientClass::Pxe, 7), &known, "script x86_64"),
            (request(true, ClientClass::Pxe, 11), &known, "script aarch64"),
            (request(false, ClientClass::Pxe, 6), &known, "no_loader"),
            (request(true, ClientClass::Pxe, 0), &Found::Unknown, "unknown"),
            (request(false, ClientClass::Pxe, 0), &Found::Conflict(vec![]), "conflict"),
        ] {
            assert_eq!(name(answer(&request, found, &loaders)), want, "{request:?}");
        }
    }

    #[rstest]
    #[case::inside(IntentState::Open, 3599, OnReboot::Local, Next::Boot(Task::Boot))]
    #[case::one_second_late(IntentState::Open, 3600, OnReboot::Local, Next::Local)]
    #[case::joined_disk(IntentState::Fulfilled, 10, OnReboot::Local, Next::Local)]
    #[case::joined_live(IntentState::Fulfilled, 10, OnReboot::Network, Next::Boot(Task::Boot))]
    #[case::expired(IntentState::Expired, 9999, OnReboot::Local, Next::Local)]
    #[case::frozen(IntentState::Frozen, 10, OnReboot::Local, Next::Local)]
    fn the_window_decides(
        #[case] state: IntentState,
        #[case] second: i64,
        #[case] reboot: OnReboot,
        #[case] want: Next,
    ) {
        let m = machine("m").mac("52:54:00:00:00:01").arc();
        let p = profile("p").on_reboot(reboot).chosen();
        assert_eq!(next(&m, Ok(&p), Some(&intent("created", state)), false, false, at(second)), want);
    }

    /// S8, R16: closed outside the window, and never closed for good to a box whose window is open.
    #[rstest]
    #[case::inside(IntentState::Open, 3599, OnReboot::Local, "yes", "later")]
    #[case::one_second_late(IntentState::Open, 3600, OnReboot::Local, "no", "later")]
    #[case::joined_disk(IntentState::Fulfilled, 10, OnReboot::Local, "no", "later")]
    #[case::joined_live(IntentState::Fulfilled, 10, OnReboot::Network, "yes", "later")]
    #[case::frozen(IntentState::Frozen, 10, OnReboot::Local, "no", "later")]
    fn links_open_what_the_script_boots(
        #[case] state: IntentState,
        #[case] second: i64,
        #[case] reboot: OnReboot,
        #[case] want: &str,
        #[case] without_a_profile: &str,
    ) {
        let m = machine("m").mac("52:54:00:00:00:01").arc();
        let p = profile("p").on_reboot(reboot).chosen();
        let intent = intent("created", state);
        let said = |opens| match opens {
            Opens::Yes => "yes",
            Opens::Later { .. } => "later",
            Opens::No => "no",
        };
        assert_eq!(said(opens(&m, Ok(&p), Some(&intent), false, false, at(second))), want);
        let contested = if want == "no" { "no" } else { "later" };
        assert_eq!(said(opens(&m, Ok(&p), Some(&intent), true, false, at(second))), contested);
        // A box that boots its Profile each time waits for it to come back.
        assert_eq!(
            said(opens(&m, Err(&SelectError::NoneSelects), Some(&intent), false, false, at(second))),
            without_a_profile
        );
        assert_eq!(said(opens(&m, Ok(&p), None, false, false, at(second))), "later", "the controller is on its way");
    }

    /// R8: in an open window the system is installed once, and then booted from its disk; outside one it is never installed.
    #[rstest]
    #[case::new(IntentState::Open, false, Next::Boot(Task::Install), "yes")]
    #[case::installed(IntentState::Open, true, Next::Installed, "yes")]
    #[case::joined(IntentState::Fulfilled, true, Next::Local, "no")]
    #[case::expired_before(IntentState::Expired, false, Next::Local, "no")]
    fn a_system_is_installed_once_and_only_in_a_window(
        #[case] state: IntentState,
        #[case] installed: bool,
        #[case] want: Next,
        #[case] links: &str,
    ) {
        let m = machine("m").mac("52:54:00:00:00:01").arc();
        for reboot in [OnReboot::Local, OnReboot::Network] {
            let p = profile("p").on_reboot(reboot).installing("rootfs").chosen();
            let intent = intent("created", state);
            assert_eq!(next(&m, Ok(&p), Some(&intent), false, installed, at(10)), want);
            let open = opens(&m, Ok(&p), Some(&intent), false, installed, at(10)) == Opens::Yes;
            assert_eq!(open, links == "yes");
            // That it is installed in another intent is nobody's word for this one.
            assert!(matches!(next(&m, Ok(&p), None, false, installed, at(10)), Next::Wait { .. }));
        }
    }

    /// A machine whose window for another install waits for its turn is what it was until then: at three in the morning it boots its disk.
    #[test]
    fn one_that_waits_to_be_installed_anew_boots_what_it_has() {
        let p = profile("p").installing("rootfs").chosen();
        let before = intent("created", IntentState::Fulfilled);
        let mut m = (*machine("m").mac("52:54:00:00:00:01").intent("again").arc()).clone();
        assert!(matches!(next(&m, Ok(&p), Some(&before), false, false, at(10)), Next::Wait { .. }));
        let (queued, intent) = (Some("again".to_owned()), Some(before.clone()));
        m.status = Some(magnetite_api::MachineStatus { queued, intent, ..Default::default() });
        assert_eq!(next(&m, Ok(&p), Some(&before), false, false, at(10)), Next::Local);
        // It was meant for another intent than the spec names by now.
        m.spec.boot_intent = Some("third".into());
        assert!(matches!(next(&m, Ok(&p), Some(&before), false, false, at(10)), Next::Wait { .. }));
    }

    /// Nothing but a deletion with `Wipe`, taken up by the controller, has a box wiped; not outside its window, not twice, and neither of two
    /// that may be it.
    #[test]
    fn a_box_is_wiped_only_where_its_machine_is_deleted_to_be() {
        use magnetite_api::{
            install::WipeStatus,
            machine::{DeletionPolicy, MachineStatus},
        };
        let p = profile("p").installing("rootfs").chosen();
        let wipe =
            |state| WipeStatus { intent: "wipe-1".into(), state, disks: Vec::new(), at: seconds(at(0)), message: None };
        let decide = |change: &dyn Fn(&mut Machine), intent: &IntentStatus, conflicted| {
            let mut m = (*machine("m").mac("52:54:00:00:00:01").arc()).clone();
            m.metadata.deletion_timestamp = Some(seconds(at(0)));
            m.spec.deletion_policy = DeletionPolicy::Wipe;
            let wipe = Some(Box::new(wipe(WipeState::Waiting)));
            m.status = Some(MachineStatus { wipe, ..MachineStatus::default() });
            change(&mut m);
            next(&m, Ok(&p), Some(intent), conflicted, false, at(10))
        };
        let open = intent("wipe-1", IntentState::Open);
        assert_eq!(decide(&|_| {}, &open, false), Next::Boot(Task::Wipe));
        assert_eq!(decide(&|_| {}, &open, true), Next::Local);
        assert_eq!(decide(&|_| {}, &intent("wipe-1", IntentState::Expired), false), Next::Local);
        assert_eq!(decide(&|_| {}, &intent("created", IntentState::Open), false), Next::Local);
        let of = |policy| move |m: &mut Machine| m.spec.deletion_policy = policy;
        assert_eq!(decide(&of(DeletionPolicy::Retain), &open, false), Next::Local);
        assert_eq!(decide(&of(DeletionPolicy::RemoveNode), &open, false), Next::Local);
        assert_eq!(decide(&|m| m.status = None, &open, false), Next::Local);
        let done = |m: &mut Machine| m.status.as_mut().unwrap().wipe = Some(Box::new(wipe(WipeState::Wiped)));
        assert_eq!(decide(&done, &open, false), Next::Local);
        // One that is not being deleted is never wiped, whatever its status says.
        let lives = |m: &mut Machine| m.metadata.deletion_timestamp = None;
        assert!(!matches!(decide(&lives, &open, false), Next::Boot(Task::Wipe)));
    }

    /// Whatever is known of it, and whatever its Profile would install.
    #[test]
    fn a_box_that_is_held_tells_what_it_is_made_of_and_no_more() {
        let mut m = (*machine("m").mac("52:54:00:00:00:01").arc()).clone();
        m.spec.hold = true;
        let p = profile("p").installing("rootfs").chosen();
        for intent in
            [None, Some(intent("created", IntentState::Open)), Some(intent("created", IntentState::Fulfilled))]
        {
            for installed in [false, true] {
                assert_eq!(next(&m, Ok(&p), intent.as_ref(), false, installed, at(10)), Next::Boot(Task::Inventory));
                assert_eq!(opens(&m, Ok(&p), intent.as_ref(), false, installed, at(10)), Opens::Yes);
            }
        }
        assert!(matches!(next(&m, Err(&SelectError::Held), None, false, false, at(10)), Next::Wait { .. }));
        assert!(
            matches!(next(&m, Ok(&p), None, true, false, at(10)), Next::Wait { .. }),
            "of two that may be it neither"
        );
    }

    #[test]
    fn what_cannot_be_decided_yet_waits_and_says_why() {
        let m = machine("m").mac("52:54:00:00:00:01").intent("again").arc();
        let p = profile("p").chosen();
        let open = intent("again", IntentState::Open);
        let why = |next: Next| match next {
            Next::Wait { why, .. } => why,
            other => panic!("{other:?}"),
        };
        assert!(why(next(&m, Ok(&p), None, false, false, at(0))).contains("boot window for m"));
        // The window of an older intent is not this intent's.
        assert!(
            why(next(&m, Ok(&p), Some(&intent("created", IntentState::Open)), false, false, at(0)))
                .contains("boot window")
        );
        assert!(why(next(&m, Err(&SelectError::NoneSelects), Some(&open), false, false, at(0))).contains("no Profile"));
        assert!(why(next(&m, Ok(&p), Some(&open), true, false, at(0))).contains("another Machine"));
        assert_eq!(next(&m, Ok(&p), Some(&open), false, false, at(0)), Next::Boot(Task::Boot));
    }
}
