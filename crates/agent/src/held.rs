//! What a box that is held does: it tells what it is made of, and asks what becomes of it, until it is to be something. It changes
//! nothing on the box.
use std::{path::Path, time::Duration};

use magnetite_api::{
    join::{Held as Next, InventoryAnswer, InventoryRequest},
    report::Inventory,
};
use magnetite_daemon::{
    backoff::{Backoff, jittered},
    log::chain,
};
use reqwest::StatusCode;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    args::Args,
    console,
    files::Paths,
    inventory,
    report::{Reporter, plain},
    server::BootServer,
    systemd::After,
};

/// How long the boot server may take to answer.
const ASKED: Duration = Duration::from_secs(30);
/// Between two tries where it does not.
const TRIES: Backoff = Backoff { first: Duration::from_secs(2), ceiling: Duration::from_secs(30) };
/// The longest that is waited for the next question, whatever the answer says.
const LONGEST: Duration = Duration::from_secs(60);
/// Before a box restarts whose link is good for nothing any more: its Machine may be in the making.
const LOST: Duration = Duration::from_secs(60);

/// The agent at this work.
pub struct Held<'a> {
    /// The arguments.
    pub args: &'a Args,
    /// Where things are.
    pub paths: &'a Paths,
    /// Who is asked.
    pub server: &'a BootServer,
    /// Where to say how far it is.
    pub reporter: Reporter,
}

impl Held<'_> {
    /// Tells and asks. Ends when it is known what becomes of the box.
    pub async fn run(self) -> After {
        let mut inventory = self.look().await;
        self.reporter.started(&inventory);
        let (mut retries, mut shown) = (TRIES.start(), String::new());
        loop {
            let request = InventoryRequest { inventory: inventory.clone() };
            let wait = match self.server.post("inventory", &request, ASKED).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let Ok(InventoryAnswer { next, seconds, machine: _, message }) =
                        serde_json::from_slice(&answer.body)
                    else {
                        tracing::warn!("the boot server's answer cannot be read; is it of another version?");
                        sleep(retries.next_delay()).await;
                        continue;
                    };
                    if message != shown {
                        self.tell(&message);
                        shown = message;
                    }
                    retries.reset();
                    match next {
                        Next::Wait => jittered(Duration::from_secs(seconds.into()).min(LONGEST)),
                        Next::Restart => return After::Restart,
                        Next::PowerOff => return After::Off,
                    }
                }
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                    self.tell("the boot server knows this box no longer; restarts, to be told anew what to do");
                    sleep(jittered(LOST)).await;
                    return After::Restart;
                }
                Ok(answer) => {
                    let refusal = answer.refusal().map(|refusal| plain(&refusal.message, 300));
                    tracing::warn!(status = answer.status.as_u16(), reason = refusal, "the inventory was not taken");
                    answer.retry_after.map_or_else(|| retries.next_delay(), |wait| jittered(wait.min(LONGEST)))
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the boot server could not be told");
                    retries.next_delay()
                }
            };
            sleep(wait).await;
            // A cable that was plugged in meanwhile, a switch that told its name.
            inventory = self.look().await;
        }
    }

    async fn look(&self) -> Inventory {
        let mut inventory = inventory::inventory(self.paths);
        // Only of a real box: a test must not ask the host's own BMC.
        if self.paths.is_real() {
            let asked = spawn_blocking(|| inventory::bmc_address(Path::new("ipmitool"))).await;
            inventory.bmc_address = asked.ok().flatten();
        }
        inventory
    }

    fn tell(&self, text: &str) {
        tracing::info!(machine = self.args.machine, text, "held");
        console::show_work(self.paths, &plain(text, 300));
    }
}
