//! The swap drill: a loader is replaced while boxes boot.

use std::net::{IpAddr, Ipv4Addr};

use magnetite_wire::tftp::{Packet, ReadRequest};
use tokio::net::UdpSocket;

use super::*;
use crate::{
    fixtures::{Site, until},
    net, tftp,
};

/// A PE image of so many bytes that says of itself how long it is, and differs by `mark`.
pub fn program(length: usize, mark: u8) -> Vec<u8> {
    let mut image = vec![mark; length];
    image[..512].fill(0);
    image[..2].copy_from_slice(b"MZ");
    image[0x3c] = 0x40;
    // Signature; machine, one section, 0xf0 bytes of optional header of the 64-bit kind.
    image[0x40..0x48].copy_from_slice(b"PE\0\0\x64\x86\x01\0");
    image[0x54..0x56].copy_from_slice(&0xf0_u16.to_le_bytes());
    image[0x58..0x5a].copy_from_slice(&0x20b_u16.to_le_bytes());
    let section = 0x58 + 0xf0;
    image[section + 16..section + 20].copy_from_slice(&u32::try_from(length - 512).unwrap().to_le_bytes());
    image[section + 20..section + 24].copy_from_slice(&512_u32.to_le_bytes());
    image
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join("incoming"), bytes).unwrap();
    std::fs::rename(folder.join("incoming"), folder.join(name)).unwrap();
}

/// Looks as the task does, until nothing changes any more.
fn settle(loaders: &Loaders) {
    while loaders.look() == Look::Changing {}
}

#[test]
fn a_new_loader_replaces_the_old_one_and_a_broken_one_does_not() {
    let (folder, signed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = program(4096, 1);
    put(folder.path(), "snponly.efi", &old);
    put(folder.path(), "undionly.kpxe", b"old");
    put(signed.path(), "ipxe.efi", &old);
    let loaders = Loaders::read(folder.path(), Some(signed.path()));
    assert_eq!(loaders.now().keys().collect::<Vec<_>>(), ["secure-boot/ipxe.efi", "snponly.efi", "undionly.kpxe"]);
    assert_eq!(loaders.look(), Look::Settled);

    let new = program(5000, 2);
    let held = loaders.get("snponly.efi").unwrap();
    put(folder.path(), "snponly.efi", &new);
    assert_eq!(loaders.look(), Look::Changing, "seen, and not believed before it is the same twice");
    assert_eq!(*loaders.get("snponly.efi").unwrap(), *old);
    assert_eq!(loaders.look(), Look::Settled);
    assert_eq!((&*loaders.get("snponly.efi").unwrap(), &*held), (&*new, &*old), "who has the old one keeps it");

    // Each beginning of the new one, an empty file, a web page; and in none of the moments in between is there none.
    let another = program(6000, 3);
    let broken = (0..another.len()).step_by(97).map(|end| another[..end].to_vec());
    for broken in broken.chain([b"<!DOCTYPE html><title>404</title>".repeat(100)]) {
        std::fs::write(folder.path().join("snponly.efi"), &broken).unwrap();
        settle(&loaders);
        assert_eq!(*loaders.get("snponly.efi").unwrap(), *new, "{} bytes", broken.len());
    }
    std::fs::write(folder.path().join("snponly.efi"), &another).unwrap();
    settle(&loaders);
    assert_eq!(*loaders.get("snponly.efi").unwrap(), *another, "written over in place, now whole");

    std::fs::remove_file(folder.path().join("undionly.kpxe")).unwrap();
    put(folder.path(), "ipxe.efi", &new);
    settle(&loaders);
    assert!(!loaders.contains_key("undionly.kpxe"), "one that is taken away is not offered");
    assert!(loaders.contains_key("ipxe.efi"), "one that is added is");
    // A folder that goes away, as a mount does, takes nothing with it.
    let away = folder.path().with_extension("away");
    std::fs::rename(folder.path(), &away).unwrap();
    settle(&loaders);
    assert_eq!(*loaders.get("snponly.efi").unwrap(), *another);
    std::fs::rename(&away, folder.path()).unwrap();
    settle(&loaders);
    assert_eq!(loaders.now().len(), 3);
}

#[test]
fn what_is_broken_at_the_start_is_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "snponly.efi", &program(4096, 1)[..4000]);
    put(folder.path(), "ipxe.efi", &program(4096, 1));
    put(folder.path(), "undionly.kpxe", b"");
    assert_eq!(Loaders::read(folder.path(), None).now().keys().collect::<Vec<_>>(), ["ipxe.efi"]);
}

/// The loaders of this system's own package, if it is there: none is taken for broken.
#[test]
fn real_loaders_are_whole() {
    for folder in ["/usr/lib/ipxe", "/usr/lib/shim", "/usr/lib/ipxe/qemu"] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let wanted: Vec<_> = names.filter(|name| is_loader(name)).collect();
        let loaders = Loaders::read(Path::new(folder), None);
        for name in wanted {
            assert!(loaders.contains_key(&name), "{folder}/{name}");
        }
    }
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(&mut out);
    out
}

/// One block after another, by hand: a loader is swapped in the midst of a transfer.
struct Transfer {
    socket: UdpSocket,
    peer: std::net::SocketAddr,
    got: Vec<u8>,
    last: u16,
}

impl Transfer {
    async fn begin(server: std::net::SocketAddr, file: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let request = ReadRequest { file: file.to_owned(), block_size: Some(1024), ..ReadRequest::default() };
        socket.send_to(&encoded(&Packet::Read(request)), server).await.unwrap();
        let mut buffer = [0; 2048];
        let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
        assert!(matches!(Packet::decode(&buffer[..len]).unwrap(), Packet::Oack(_)));
        Self { socket, peer, got: Vec::new(), last: 0 }
    }

    /// The next block; false after the last one.
    async fn go_on(&mut self) -> bool {
        self.socket.send_to(&encoded(&Packet::Ack(self.last)), self.peer).await.unwrap();
        let mut buffer = [0; 2048];
        loop {
            let (len, _) = self.socket.recv_from(&mut buffer).await.unwrap();
            match Packet::decode(&buffer[..len]).unwrap() {
                Packet::Data { block, bytes } if block == self.last + 1 => {
                    (self.last, _) = (block, self.got.extend(bytes));
                    if bytes.len() < 1024 {
                        self.socket.send_to(&encoded(&Packet::Ack(block)), self.peer).await.unwrap();
                    }
                    return bytes.len() == 1024;
                }
                // Sent once more by a timer.
                Packet::Oack(_) | Packet::Data { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_loader_is_swapped_while_boxes_boot_and_no_transfer_notices() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (program(200_000, 1), program(150_000, 2));
    put(folder.path(), "snponly.efi", &old);
    let site = Site::with(|app| app.loaders = Loaders::read(folder.path(), None)).await;
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
    let (server, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
    let source = tftp::Source { address, interface: None };
    let serving = tokio::spawn(tftp::Server::new(socket, source, 1500, Arc::clone(&site.app)).run(stop.clone()));
    let looking = tokio::spawn(run(Arc::clone(&site.app), stop.clone()));

    let mut before = Transfer::begin(server, "snponly.efi").await;
    assert!(before.go_on().await);
    // Half of it lies there for a moment, as `cp` over a slow line would leave it.
    std::fs::write(folder.path().join("snponly.efi"), &new[..100_000]).unwrap();
    tokio::time::sleep(SETTLED * 3).await;
    assert_eq!(*site.app.loaders.get("snponly.efi").unwrap(), *old, "half a loader is none");
    put(folder.path(), "snponly.efi", &new);
    until("the new loader to be at hand", || site.app.loaders.get("snponly.efi").is_some_and(|bytes| *bytes == *new))
        .await;
    let mut after = Transfer::begin(server, "snponly.efi").await;
    while before.go_on().await {}
    while after.go_on().await {}
    assert!(before.got == old, "a transfer ends with what it began with");
    assert!(after.got == new, "and the next one has the new loader, without a restart");
    stop.cancel();
    serving.await.unwrap().unwrap();
    looking.await.unwrap().unwrap();
}
