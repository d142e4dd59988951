//! The fuzzer's way into [`magnetite_fuzz::dhcp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::dhcp::check(bytes));
