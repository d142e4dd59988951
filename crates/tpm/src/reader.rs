//! The one way to take bytes from what a TPM, or somebody who says to have one, wrote. Numbers are big-endian (Part 1, 5.3).

/// The bytes end before the field does, or go on after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// They end too soon.
    #[error("{field} at byte {at}: wanted {want} bytes, had {had}")]
    Short {
        /// Which field.
        field: &'static str,
        /// Where it begins.
        at: usize,
        /// Its bytes.
        want: usize,
        /// Those that were left.
        had: usize,
    },
    /// They say something else than they are.
    #[error("{0} is not what the rest of the bytes says")]
    Contradiction(&'static str),
    /// They go on.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
}

/// Takes bytes from the front of a slice, and knows how far it is.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    fn short(&self, field: &'static str, want: usize) -> ReadError {
        ReadError::Short { field, at: self.at, want, had: self.rest.len() }
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ReadError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.short(field, N))?;
        (self.rest, self.at) = (rest, self.at.saturating_add(N));
        Ok(*head)
    }

    /// Takes `want` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn slice(&mut self, field: &'static str, want: usize) -> Result<&'a [u8], ReadError> {
        let (head, rest) = self.rest.split_at_checked(want).ok_or_else(|| self.short(field, want))?;
        (self.rest, self.at) = (rest, self.at.saturating_add(want));
        Ok(head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// None is left.
    pub fn byte(&mut self, field: &'static str) -> Result<u8, ReadError> {
        self.take::<1>(field).map(|[byte]| byte)
    }

    /// Takes two bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, ReadError> {
        self.take(field).map(u16::from_be_bytes)
    }

    /// Takes four bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, ReadError> {
        self.take(field).map(u32::from_be_bytes)
    }

    /// Takes a `TPM2B`: two bytes of length, and as many bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn sized(&mut self, field: &'static str) -> Result<&'a [u8], ReadError> {
        let want = self.u16(field)?;
        self.slice(field, want.into())
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Sees to it that nothing is left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), ReadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ReadError::Trailing(self.rest.len())) }
    }
}

/// Appends a `TPM2B`. What is longer than any TPM takes is cut, and then refused by whoever reads it.
pub fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(bytes.iter().take(length.into()));
}
