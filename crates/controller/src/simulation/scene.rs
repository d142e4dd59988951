//! What a run is made of.

use super::{clock::MINUTE, cluster::Broken, random::Random};

/// A run to be.
#[derive(Debug, Clone)]
pub struct Scene {
    pub machines: usize,
    /// Boxes with the MAC of a machine that is not theirs.
    pub rogues: usize,
    pub servers: usize,
    pub controllers: usize,
    /// Of a thousand packets: lost, doubled, late.
    pub loss: u32,
    pub twice: u32,
    pub late: u32,
    /// Of a thousand boxes, so many have a disk.
    pub disks: u32,
    /// Boxes change their address at every step.
    pub moves: bool,
    /// Kubelets renew their certificates.
    pub renewals: bool,
    /// How many faults, of which kinds, within which time.
    pub faults: usize,
    pub kinds: Vec<Trouble>,
    pub span: i64,
    pub broken: Option<Broken>,
    /// Boxes are switched on by the scene itself.
    pub powers: bool,
    /// The Profile installs its system to the disk, and Machines may be deleted to be wiped.
    pub installs: bool,
    /// The system lives in memory, and boxes have a TPM: all else that they know is lost with their power.
    pub live: bool,
    /// How long the signer's certificates last.
    pub lifetime: i64,
    /// Agents claim at once, so that two of them are as close as can be.
    pub eager: bool,
}

/// Kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Kill,
    /// A kill in the middle of a request.
    KillInside,
    StopLeader,
    FreezeWatch,
    BreakWatch,
    KillServer,
    PowerCycle,
    ApiAway,
    Backup,
    Restore,
    Delete,
    Intent,
    SweepRequests,
    Slow,
    Maintenance,
}

impl Trouble {
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::KillInside,
        Self::StopLeader,
        Self::FreezeWatch,
        Self::BreakWatch,
        Self::KillServer,
        Self::PowerCycle,
        Self::ApiAway,
        Self::Backup,
        Self::Restore,
        Self::Delete,
        Self::Intent,
        Self::SweepRequests,
        Self::Slow,
        Self::Maintenance,
    ];

    /// Those that nobody does, and that need nobody to put them right.
    pub fn of_processes() -> Vec<Self> {
        let of_a_process = |trouble: &Self| match trouble {
            Self::Kill | Self::KillInside | Self::StopLeader | Self::KillServer => true,
            Self::FreezeWatch | Self::BreakWatch | Self::ApiAway | Self::Slow => true,
            Self::PowerCycle | Self::Backup | Self::Restore | Self::Delete => false,
            Self::Intent | Self::SweepRequests | Self::Maintenance => false,
        };
        Self::ALL.into_iter().filter(of_a_process).collect()
    }
}

impl Scene {
    /// One machine, its box, two boot servers, one controller, and nothing that goes wrong.
    pub fn quiet() -> Self {
        Self {
            machines: 1,
            rogues: 0,
            servers: 2,
            controllers: 1,
            loss: 0,
            twice: 0,
            late: 0,
            disks: 1000,
            moves: false,
            renewals: false,
            faults: 0,
            kinds: vec![],
            span: 20 * MINUTE,
            broken: None,
            powers: true,
            installs: false,
            live: false,
            lifetime: 24 * 60 * MINUTE,
            eager: false,
        }
    }

    /// Everything that goes wrong, as the seed has it.
    pub fn stormy(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5ce9e);
        let (installs, live) = (random.chance(400), random.chance(300));
        Self {
            machines: 1 + random.below(3),
            rogues: random.below(3),
            servers: 1 + random.below(3),
            controllers: 1 + random.below(2),
            loss: [0, 20, 100, 250][random.below(4)],
            twice: [0, 50, 200][random.below(3)],
            late: [0, 50, 300][random.below(3)],
            disks: 500,
            moves: random.chance(300),
            renewals: random.chance(500),
            faults: random.below(14),
            kinds: Trouble::ALL.to_vec(),
            // Past the end of a window too, but seldom: those take long.
            span: if random.chance(100) { random.between(60, 90) } else { random.between(3, 20) } * MINUTE,
            broken: None,
            powers: true,
            installs: installs && !live,
            live,
            lifetime: if random.chance(500) { 24 * 60 } else { random.between(5, 15) } * MINUTE,
            eager: false,
        }
    }
}
