//! The fuzzer's way into [`magnetite_fuzz::lldp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::lldp::check(bytes));
