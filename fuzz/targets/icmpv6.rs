//! The fuzzer's way into [`magnetite_fuzz::icmpv6`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::icmpv6::check(bytes));
