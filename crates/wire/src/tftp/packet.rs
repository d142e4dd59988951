//! The packets.

use crate::reader::Reader;

/// A packet that a client sends, or that we send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Read request.
    Read(ReadRequest),
    /// Write request; never granted.
    Write,
    /// A block of data.
    Data {
        /// Its number, which wraps.
        block: u16,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// Acknowledgement of a block.
    Ack(u16),
    /// An error; ends the transfer.
    Error {
        /// Its code.
        code: ErrorCode,
        /// Its text.
        message: String,
    },
    /// Acknowledgement of options.
    Oack(Vec<(String, String)>),
}

/// An error's code (RFC 1350, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// Not defined: see the text.
    pub const UNDEFINED: Self = Self(0);
    /// File not found.
    pub const NOT_FOUND: Self = Self(1);
    /// Access violation.
    pub const ACCESS: Self = Self(2);
    /// Illegal operation.
    pub const ILLEGAL: Self = Self(4);
    /// Unknown transfer id.
    pub const UNKNOWN_TID: Self = Self(5);
    /// Options refused; OVMF sends it when it only wanted the size.
    pub const OPTIONS: Self = Self(8);
}

/// A read request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadRequest {
    /// The file's name, as sent. At most 255 bytes.
    pub file: String,
    /// Block size asked for (RFC 2348): 8 to 65464 bytes.
    pub block_size: Option<u16>,
    /// True if the size was asked for (RFC 2349).
    pub size: bool,
    /// Window size asked for (RFC 7440): 1 to 65535 blocks.
    pub window: Option<u16>,
    /// Seconds between retransmissions asked for (RFC 2349): 1 to 255.
    pub timeout: Option<u8>,
}

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind.
    #[error("packet ends at byte {at}, inside {field}")]
    Short {
        /// Where it ends.
        at: usize,
        /// What was being read.
        field: &'static str,
    },
    /// An opcode that nobody defined.
    #[error("opcode {0}")]
    Opcode(u16),
    /// A file name or mode that is not text, or is too long.
    #[error("{0} is not text of 1 to 255 bytes")]
    Text(&'static str),
    /// A mode other than octet: netascii would change the bytes.
    #[error("transfer mode is not octet")]
    Mode,
}

/// A request has at most this many options worth reading.
const MOST_OPTIONS: usize = 16;

impl<'a> Packet<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let opcode = number(&mut reader, "opcode")?;
        Ok(match opcode {
            1 => Self::Read(read_request(&mut reader)?),
            2 => Self::Write,
            3 => Self::Data { block: number(&mut reader, "block")?, bytes: reader.rest() },
            4 => Self::Ack(number(&mut reader, "block")?),
            5 => {
                let code = ErrorCode(number(&mut reader, "error code")?);
                // Some firmware leaves the NUL out; the text is only for the log.
                let text = reader.rest().split(|byte| *byte == 0).next().unwrap_or_default();
                let message = String::from_utf8_lossy(text).chars().take(128).collect();
                Self::Error { code, message }
            }
            6 => Self::Oack(pairs(&mut reader)?),
            other => return Err(DecodeError::Opcode(other)),
        })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Read(request) => {
                out.extend(1u16.to_be_bytes());
                strings(out, &request.file, "octet");
                for (name, value) in request.options() {
                    strings(out, name, &value);
                }
            }
            Self::Write => out.extend(2u16.to_be_bytes()),
            Self::Data { block, bytes } => {
                out.extend(3u16.to_be_bytes());
                out.extend(block.to_be_bytes());
                out.extend(*bytes);
            }
            Self::Ack(block) => {
                out.extend(4u16.to_be_bytes());
                out.extend(block.to_be_bytes());
            }
            Self::Error { code, message } => {
                out.extend(5u16.to_be_bytes());
                out.extend(code.0.to_be_bytes());
                out.extend(message.bytes().filter(|byte| *byte != 0));
                out.push(0);
            }
            Self::Oack(options) => {
                out.extend(6u16.to_be_bytes());
                for (name, value) in options {
                    strings(out, name, value);
                }
            }
        }
    }
}

impl ReadRequest {
    fn options(&self) -> impl Iterator<Item = (&'static str, String)> {
        let Self { file: _, block_size, size, window, timeout } = self;
        let size = size.then(|| "0".to_owned());
        [
            ("tsize", size),
            ("blksize", block_size.map(|value| value.to_string())),
            ("timeout", timeout.map(|value| value.to_string())),
            ("windowsize", window.map(|value| value.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A filename, the mode, then options. An option whose value is out of its bounds is ignored, as RFC 2347 has
/// it: the client then sees that it was not granted.
fn read_request(reader: &mut Reader<'_>) -> Result<ReadRequest, DecodeError> {
    let file = text(reader, "file name")?;
    if file.is_empty() {
        return Err(DecodeError::Text("file name"));
    }
    if !text(reader, "mode")?.eq_ignore_ascii_case("octet") {
        return Err(DecodeError::Mode);
    }
    let mut request = ReadRequest { file, ..ReadRequest::default() };
    for (name, value) in pairs(reader)? {
        let value = value.parse::<u32>().ok();
        match name.as_str() {
            "blksize" => {
                request.block_size = value.and_then(|v| u16::try_from(v).ok()).filter(|v| (8..=65464).contains(v))
            }
            "tsize" => request.size = true,
            "windowsize" => request.window = value.and_then(|v| u16::try_from(v).ok()).filter(|v| *v > 0),
            "timeout" => request.timeout = value.and_then(|v| u8::try_from(v).ok()).filter(|v| *v > 0),
            _ => {}
        }
    }
    Ok(request)
}

/// Pairs of strings up to the end. A trailing part without its NUL is ignored: ROMs pad.
fn pairs(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, DecodeError> {
    let mut out = Vec::new();
    while reader.left() > 0 && out.len() < MOST_OPTIONS {
        let Ok(name) = text(reader, "option") else { break };
        let Ok(value) = text(reader, "option value") else { break };
        out.push((name.to_ascii_lowercase(), value));
    }
    Ok(out)
}

fn text(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    let mut bytes = Vec::new();
    loop {
        match reader.byte() {
            None => return Err(DecodeError::Short { at: reader.at(), field }),
            Some(0) => break,
            Some(_) if bytes.len() == 255 => return Err(DecodeError::Text(field)),
            Some(byte) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| DecodeError::Text(field))
}

fn number(reader: &mut Reader<'_>, field: &'static str) -> Result<u16, DecodeError> {
    reader.take().map(u16::from_be_bytes).ok_or(DecodeError::Short { at: reader.at(), field })
}

fn strings(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, value] {
        out.extend(part.bytes().filter(|byte| *byte != 0));
        out.push(0);
    }
}
