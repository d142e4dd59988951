//! Artefacts that are made once. An artefact is a folder with a stamp in it: the hash of the
//! recipe that made it. It is built beside its place and renamed into it, so whatever bears a
//! stamp is whole.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

pub(crate) const STAMP: &str = ".stamp";

/// Of two scenarios that want an artefact at once one makes it, and the other finds it made. What a panic left half done bears no stamp.
static MAKING: Mutex<()> = Mutex::new(());

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// In hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What goes into an artefact, as a hash. Every part is prefixed by its length, so that moving
/// text from one part to the next is a change.
#[derive(Default)]
pub struct Recipe(Sha256);

impl Recipe {
    /// Adds one part.
    #[must_use]
    pub fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The recipe's hash.
    #[must_use]
    pub fn hash(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Whether `dir` was made by this recipe.
#[must_use]
pub fn is_fresh(dir: &Path, recipe: &str) -> bool {
    std::fs::read_to_string(dir.join(STAMP)).is_ok_and(|stamp| stamp.trim() == recipe)
}

/// Makes the folder `dir` with `build`, which fills a temporary folder, unless it is fresh. Returns
/// whether it was built.
pub fn ensure(dir: &Path, recipe: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_fresh(dir, recipe) {
        return Ok(false);
    }
    let name =
        dir.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", dir.display()))?;
    let beside = dir.with_file_name(format!(".{name}.making"));
    remove(&beside)?;
    std::fs::create_dir_all(&beside).with_context(|| format!("create {}", beside.display()))?;
    build(&beside)?;
    std::fs::write(beside.join(STAMP), recipe).context("write the stamp")?;
    remove(dir)?;
    std::fs::rename(&beside, dir).with_context(|| format!("move {} into place", dir.display()))?;
    Ok(true)
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_fails_leaves_no_artefact_and_the_next_one_starts_clean() {
        let base = std::env::temp_dir().join(format!("magnetite-stamp-{}", std::process::id()));
        let dir = base.join("thing");
        let recipe = Recipe::default().with("a").with("b").hash();
        let failed = ensure(&dir, &recipe, |tmp| {
            std::fs::write(tmp.join("half"), "x")?;
            anyhow::bail!("power cut")
        });
        assert!(failed.is_err() && !dir.exists());
        let built = ensure(&dir, &recipe, |tmp| {
            assert!(!tmp.join("half").exists());
            Ok(std::fs::write(tmp.join("whole"), "y")?)
        });
        assert!(built.expect("builds") && dir.join("whole").exists());
        assert!(!ensure(&dir, &recipe, |_| panic!("it is fresh")).expect("is fresh"));
        std::fs::remove_dir_all(&base).expect("clean up");
    }

    #[test]
    fn parts_of_a_recipe_do_not_run_together() {
        let one = Recipe::default().with("ab").with("c").hash();
        let two = Recipe::default().with("a").with("bc").hash();
        assert_ne!(one, two);
    }
}
