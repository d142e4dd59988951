//! The fuzzer's way into [`magnetite_fuzz::tpm`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::tpm::check(bytes));
