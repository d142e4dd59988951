//! What a box remembers by its TPM when it has lost everything else.

use crate::{
    client::{Auth, Command, TpmError, Transport, create_primary, flush, run},
    codes::{COMMAND_HMAC, OWNER, READ_CLOCK, SHA256},
    public::root_template,
    reader::{ReadError, Reader, put_sized},
};

/// A key in the TPM that is the same after every restart, until somebody clears the TPM, and never leaves it. It is flushed when this is
/// dropped.
pub struct Root<T: Transport> {
    tpm: T,
    handle: u32,
}

impl<T: Transport> Root<T> {
    /// Makes it, in the owner's hierarchy: clearing the TPM, as one does with a box that is given away, ends all that was derived.
    ///
    /// # Errors
    /// The TPM cannot, or will not: its owner's hierarchy has a password.
    pub fn create(mut tpm: T) -> Result<Self, TpmError> {
        let (handle, _) = create_primary(&mut tpm, OWNER, &root_template())?;
        Ok(Self { tpm, handle })
    }

    /// 32 bytes that nobody knows who cannot ask this TPM: always the same for the same label. At most 1,024 bytes of label.
    ///
    /// # Errors
    /// The TPM is away, or does not do it.
    pub fn derive(&mut self, label: &[u8]) -> Result<[u8; 32], TpmError> {
        let name = "HMAC";
        let mut parameters = Vec::new();
        put_sized(&mut parameters, label);
        parameters.extend(SHA256.to_be_bytes());
        let (code, handles, auths) = (COMMAND_HMAC, &[self.handle], &[Auth::Empty]);
        let command = Command { name, code, handles, auths, parameters: &parameters };
        let (_, parameters) = run(&mut self.tpm, &command, false)?;
        let digest = Reader::new(&parameters).sized("outHMAC").and_then(|digest| {
            let short = |_| ReadError::Short { field: "outHMAC", at: 2, want: 32, had: digest.len() };
            digest.try_into().map_err(short)
        });
        digest.map_err(|source| TpmError::Answer { command: name, source })
    }

    /// How often the box was switched on or reset, by the TPM's own count (`resetCount`, Part 1, 36.4): it grows, and is kept.
    ///
    /// # Errors
    /// The TPM is away, or answers nonsense.
    pub fn resets(&mut self) -> Result<u32, TpmError> {
        let name = "ReadClock";
        let command = Command { name, code: READ_CLOCK, handles: &[], auths: &[], parameters: &[] };
        let (_, parameters) = run(&mut self.tpm, &command, false)?;
        let mut reader = Reader::new(&parameters);
        let count =
            reader.take::<8>("time").and_then(|_| reader.take::<8>("clock")).and_then(|_| reader.u32("resetCount"));
        count.map_err(|source| TpmError::Answer { command: name, source })
    }
}

impl<T: Transport> Drop for Root<T> {
    fn drop(&mut self) {
        flush(&mut self.tpm, self.handle);
    }
}
