//! One TLS provider for the process.

/// Makes ring the provider of every TLS connection that names none. Does nothing the second time, so that tests
/// in one process may all call it.
pub fn install() {
    // An error only says that there is a provider already, and this function is the only one that installs any.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
