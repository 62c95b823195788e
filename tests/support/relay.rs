//! A relay that holds back what passes through it, in both directions: `hiveward-tests-relay PORT DELAY_MS`.
//!
//! Connections come to it by the firewall's redirection; it asks the kernel where they were to go, and marks its own so
//! that they are not redirected again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use hiveward_tests::cluster::RELAY_MARK;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Chunks on their way in one direction; the sender waits for room beyond that.
const ON_THE_WAY_MAX: usize = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("PORT DELAY_MS"));
    let (port, delay) = (arguments.next().unwrap(), Duration::from_millis(arguments.next().unwrap()));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, u16::try_from(port).unwrap())).await.unwrap();
    println!("ready");
    loop {
        let Ok((from, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let _ = relay(from, delay).await;
        });
    }
}

async fn relay(from: TcpStream, delay: Duration) -> std::io::Result<()> {
    let wanted = nix::sys::socket::getsockopt(&from, sockopt::OriginalDst)?;
    let to: SocketAddr = (Ipv4Addr::from(u32::from_be(wanted.sin_addr.s_addr)), u16::from_be(wanted.sin_port)).into();
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket, sockopt::Mark, &RELAY_MARK)?;
    let to = socket.connect(to).await?;
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    tokio::join!(later(from_read, to_write, delay), later(to_read, from_write, delay));
    Ok(())
}

/// Passes on what it reads, `delay` after it was read; an end as well.
async fn later(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY_MAX);
    let reading = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            if send.send((Instant::now() + delay, buffer[..bytes].to_vec())).await.is_err() {
                return;
            }
        }
        let _ = send.send((Instant::now() + delay, Vec::new())).await;
    };
    let writing = async move {
        while let Some((at, bytes)) = receive.recv().await {
            sleep_until(at).await;
            if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
