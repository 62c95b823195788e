//! One connection before it is a link: reading single frames, and the two hellos.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Down, LinkRefused,
    frame::{Kind, Parsed, append, parse},
};

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream together with the bytes that were read from it and not yet looked at.
pub(super) struct Conn<S> {
    pub(super) stream: S,
    pub(super) buffer: BytesMut,
}

impl<S: Stream> Conn<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Reads one frame of at most `bytes_max`; a refusal by the peer is an error. The caller bounds the time.
    pub(super) async fn expect<T: DeserializeOwned>(&mut self, wanted: Kind, bytes_max: usize) -> Result<T, Down> {
        loop {
            if let Parsed::Frame(frame) = parse(&self.buffer, bytes_max).map_err(Down::WeRefused)? {
                let protocol = |what: &str| Down::WeRefused(LinkRefused::Protocol { what: what.into() });
                let bytes = frame.bytes;
                let read = match frame.kind {
                    Kind::Refused => {
                        let why = rmp_serde::from_slice(frame.payload);
                        let unknown = || LinkRefused::Protocol { what: "for a reason that only a newer version knows".into() };
                        Err(Down::PeerRefused(why.unwrap_or_else(|_| unknown())))
                    }
                    kind if kind == wanted => {
                        rmp_serde::from_slice(frame.payload).map_err(|_| protocol("its first frame cannot be read"))
                    }
                    _ => Err(protocol("its first frame is of the wrong kind")),
                };
                self.buffer.advance(bytes);
                return read;
            }
            // Never more than what was asked for: a peer's hello is small, and what follows it waits in the kernel.
            self.buffer.reserve(bytes_max.min(1024));
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Down::Closed),
                Ok(_) => {}
                Err(error) => return Err(Down::of(&error)),
            }
        }
    }

    pub(super) async fn send<T: Serialize + Sync>(&mut self, kind: Kind, value: &T) -> Result<(), Down> {
        let failed = |why: String| Down::Failed { why };
        let payload = rmp_serde::to_vec_named(value).map_err(|error| failed(error.to_string()))?;
        let mut frame = Vec::with_capacity(payload.len() + 8);
        append(&mut frame, kind, |buffer| buffer.extend_from_slice(&payload))
            .map_err(|bytes| failed(format!("{bytes} bytes do not fit in a frame")))?;
        self.stream.write_all(&frame).await.map_err(|error| Down::of(&error))?;
        self.stream.flush().await.map_err(|error| Down::of(&error))
    }

    /// Says why, then closes. The peer may be gone already.
    pub(super) async fn refuse(&mut self, why: &LinkRefused) {
        if self.send(Kind::Refused, why).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// Sets the options that every socket has, whoever opened it.
pub(super) fn tune(tcp: &tokio::net::TcpStream, user_timeout: Duration) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    // Unacknowledged data on a cut cable would else be retried for a quarter of an hour.
    socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(user_timeout))
}
