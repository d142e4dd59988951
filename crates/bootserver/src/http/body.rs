//! JSON of strangers: bounded before it is read.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::header,
};
use serde::de::DeserializeOwned;

/// How deep values may lie in one another. What we are sent has four levels; a parser that recurses pays for each with its stack.
const DEPTH: u32 = 16;

/// What was posted, or what is wrong with it.
pub struct Posted<T>(pub Result<T, String>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Posted<T> {
    type Rejection = std::convert::Infallible;
    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
            return Ok(Self(Err("the body is not said to be application/json".to_owned())));
        }
        // The size is bounded where the routes are.
        Ok(Self(match Bytes::from_request(request, state).await {
            Ok(bytes) => read(&bytes),
            Err(error) => Err(error.body_text()),
        }))
    }
}

/// Reads a body.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if is_deeper(bytes, DEPTH) {
        return Err(format!("the body has more than {DEPTH} levels"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Whether brackets are nested deeper than so. What is no JSON may be called either; the parser refuses it.
fn is_deeper(json: &[u8], most: u32) -> bool {
    let (mut depth, mut text, mut escaped) = (0_u32, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => depth += 1,
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_that_of_values_and_not_of_texts() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(!is_deeper(nested(16).as_bytes(), 16) && is_deeper(nested(17).as_bytes(), 16));
        assert!(is_deeper("{\"a\":".repeat(17).as_bytes(), 16), "also one that is cut off");
        for flat in [r#"["[[[[", "\"[[[[", {"\\":"[[[["}]"#, "[[],[],[],[],[]]"] {
            assert!(!is_deeper(flat.as_bytes(), 3), "{flat}");
        }
        assert!(read::<serde_json::Value>(nested(17).as_bytes()).unwrap_err().contains("16 levels"));
        assert!(read::<serde_json::Value>(nested(16).as_bytes()).is_ok());
    }
}
