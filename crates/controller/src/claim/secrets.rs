//! Files with secrets, for a machine that earned its identity: gathered from Secrets, sealed to its claim key, and sealed
//! anew when a Secret changes. What is written is public by construction.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource, ResourceExt, runtime::events::EventType};
use magnetite_api::{
    Machine, MachineClaim, MachineClaimSpec, MachineClaimStatus, Profile, Sha256, conditions::reason,
    join::SealedFiles, power::SECRET_TYPE, profile::SecretFile,
};
use magnetite_seal::{PlainFile, seal};

use crate::{
    context::Context,
    error::{Error, code},
    profile::renders::Trouble,
};

/// How often a Secret is looked at: there is a right to read those that are named, and none to watch.
pub const AGAIN: Duration = Duration::from_secs(60);
/// All files of a machine together: they are an object of the API server's, twice in base64.
const MOST_BYTES: usize = 128 << 10;

/// What the Profile's Secrets hold.
struct Gathered {
    files: Vec<PlainFile>,
    /// Changes when anything of it does, and tells nothing of what is in it.
    revision: String,
}

/// The Profile's files, sealed to the key of a claim. `known`: what was sealed before, which stays while nothing changed.
///
/// # Errors
/// The API server was not there. A Secret that is missing is no error but a trouble, in words for people.
pub async fn sealed(
    claim: &MachineClaimSpec,
    profile: &Profile,
    known: Option<&SealedFiles>,
    ctx: &Context,
) -> Result<Result<Option<SealedFiles>, Trouble>, Error> {
    if profile.spec.secret_files.is_empty() {
        return Ok(Ok(None));
    }
    let gathered = match gather(&profile.spec.secret_files, ctx).await? {
        Ok(gathered) => gathered,
        Err(trouble) => return Ok(Err(trouble)),
    };
    if let Some(known) = known.filter(|known| known.revision == gathered.revision) {
        return Ok(Ok(Some(known.clone())));
    }
    let key = STANDARD.decode(&claim.claim_key).unwrap_or_default();
    let sealed = seal(&key, &claim.machine_uid, &gathered.files, gathered.revision);
    Ok(sealed.map(Some).map_err(|error| Trouble { reason: reason::SECRET_MISSING, message: error.to_string() }))
}

async fn gather(wanted: &[SecretFile], ctx: &Context) -> Result<Result<Gathered, Trouble>, Error> {
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.settings.namespace);
    let mut read: BTreeMap<&str, Secret> = BTreeMap::new();
    let (mut files, mut names, mut bytes) = (Vec::new(), String::new(), 0);
    for SecretFile { path, mode, secret } in wanted {
        let name = secret.name.as_str();
        if !read.contains_key(name) {
            match api.get_opt(name).await {
                Ok(Some(found)) => drop(read.insert(name, found)),
                Ok(None) => return Ok(Err(missing(format!("there is no Secret {name} in Magnetite's namespace")))),
                Err(error) if code(&error) == Some(403) => {
                    return Ok(Err(Trouble {
                        reason: reason::SECRET_NOT_READABLE,
                        message: format!(
                            "the controller may not read the Secret {name}; name it in controller.secretNames of the chart"
                        ),
                    }));
                }
                Err(error) => return Err(Error::read("Secret", name)(error)),
            }
        }
        let Some(found) = read.get(name) else { continue };
        if found.type_.as_deref() == Some(SECRET_TYPE) {
            return Ok(Err(Trouble {
                reason: reason::SECRET_NOT_READABLE,
                message: format!("the Secret {name} is for a BMC (type {SECRET_TYPE}), and no machine is given it"),
            }));
        }
        let Some(contents) = found.data.as_ref().and_then(|data| data.get(&secret.key)) else {
            return Ok(Err(missing(format!("the Secret {name} has no key {}", secret.key))));
        };
        bytes += contents.0.len();
        if bytes > MOST_BYTES {
            return Ok(Err(missing(format!("spec.secretFiles hold more than {MOST_BYTES} bytes together"))));
        }
        let mode_bits = u32::from_str_radix(mode, 8).unwrap_or(0o600);
        files.push(PlainFile::new(path, mode_bits, &contents.0));
        let (uid, version) = (found.uid().unwrap_or_default(), found.resource_version().unwrap_or_default());
        names.push_str(&format!("{path}\n{mode}\n{}\n{uid}\n{version}\n", secret.key));
    }
    Ok(Ok(Gathered { files, revision: Sha256::of(names.as_bytes()).short() }))
}

fn missing(message: String) -> Trouble {
    Trouble { reason: reason::SECRET_MISSING, message }
}

/// Seals anew what an approved claim carries, if a Secret or the Profile changed. The claim that is to be written, if any.
///
/// # Errors
/// The API server was not there.
pub async fn renewed(
    claim: &MachineClaim,
    machine: &Machine,
    profile: &Profile,
    ctx: &Context,
) -> Result<Option<MachineClaimStatus>, Error> {
    let Some(mut status) = claim.status.clone() else { return Ok(None) };
    let Some(join) = &mut status.join else { return Ok(None) };
    match sealed(&claim.spec, profile, join.secret_files.as_ref(), ctx).await? {
        Ok(sealed) if sealed != join.secret_files => {
            join.secret_files = sealed;
            Ok(Some(status))
        }
        Ok(_) => Ok(None),
        // The machine keeps what it has: a Secret that was deleted by mistake must not take a node down.
        Err(Trouble { reason, message }) => {
            ctx.publish(&machine.object_ref(&()), EventType::Warning, reason, "Seal", &message).await;
            Ok(None)
        }
    }
}
