//! What a switch tells of itself.

use magnetite_wire::lldp::Neighbour;

use crate::bounded;

/// What is read came from the frame, and what is not read says where.
pub fn check(bytes: &[u8]) {
    // Bytes that are no text become three each.
    match bounded(bytes, 8, || Neighbour::decode(bytes)) {
        Ok(Neighbour { chassis, port, port_description, system_name }) => {
            assert_eq!(bytes.get(12..14), Some(&[0x88, 0xcc][..]), "the EtherType of LLDP");
            for text in [Some(chassis), Some(port), port_description, system_name].into_iter().flatten() {
                assert!(text.len() <= 3 * 511, "a value has at most 511 bytes");
            }
        }
        Err(error) => assert!(error.to_string().len() < 200, "an error is a line"),
    }
}
