//! Keys that are the same in every run. The private keys are 1, 2, 3 and so on: names of claims are made from public keys, so that
//! with random ones no run could be had again.

use std::sync::{Arc, Mutex, PoisonError};

use num_bigint::BigUint;
use rcgen::KeyPair;

use crate::fixtures::der;

/// P-256 (SEC 2, 2.4.2): the prime, and the point that all keys are multiples of.
const P: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
const G: [&str; 2] = [
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
];

type Point = (BigUint, BigUint);

static MADE: Mutex<(Vec<Arc<KeyPair>>, Option<Point>)> = Mutex::new((Vec::new(), None));

/// The key with this number.
pub fn key(number: usize) -> Arc<KeyPair> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    while made.0.len() <= number {
        let point = made.1.as_ref().map_or_else(generator, |last| add(last, &generator()));
        let private = BigUint::from(made.0.len() + 1);
        made.0.push(Arc::new(pair(&private, &point)));
        made.1 = Some(point);
    }
    Arc::clone(&made.0[number])
}

fn number(hex: &str) -> BigUint {
    BigUint::parse_bytes(hex.as_bytes(), 16).unwrap()
}

fn generator() -> Point {
    (number(G[0]), number(G[1]))
}

/// The sum of two points, neither of them the other's negative: with keys from 1 upwards they never are.
fn add(a: &Point, b: &Point) -> Point {
    let p = number(P);
    let minus = |x: &BigUint, y: &BigUint| (x + &p - y) % &p;
    let inverse = |x: &BigUint| x.modpow(&(&p - 2_u32), &p);
    let slope = if a == b {
        // The curve's a is -3.
        (minus(&(&a.0 * &a.0 * 3_u32 % &p), &BigUint::from(3_u32)) * inverse(&(&a.1 * 2_u32 % &p))) % &p
    } else {
        (minus(&b.1, &a.1) * inverse(&minus(&b.0, &a.0))) % &p
    };
    let x = minus(&minus(&(&slope * &slope % &p), &a.0), &b.0);
    let y = minus(&(&slope * minus(&a.0, &x) % &p), &a.1);
    (x, y)
}

fn octets(value: &BigUint) -> Vec<u8> {
    let bytes = value.to_bytes_be();
    [vec![0; 32 - bytes.len()], bytes].concat()
}

/// As PKCS#8 (RFC 5958) with an ECPrivateKey (RFC 5915) inside.
fn pair(private: &BigUint, point: &Point) -> KeyPair {
    let curve = [der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7])];
    let public = [vec![0, 4], octets(&point.0), octets(&point.1)].concat();
    let inner = [der(2, &[1]), der(4, &octets(private)), der(0xa1, &der(3, &public))].concat();
    let whole = [der(2, &[0]), der(0x30, &curve.concat()), der(4, &der(0x30, &inner))].concat();
    KeyPair::try_from(der(0x30, &whole).as_slice()).unwrap()
}
