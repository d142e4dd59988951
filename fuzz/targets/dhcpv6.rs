//! The fuzzer's way into [`magnetite_fuzz::dhcpv6`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::dhcpv6::check(bytes));
