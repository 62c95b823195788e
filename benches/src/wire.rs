//! The clients of the gateway's bench: as little work per answer as the protocol allows, so that the server is what is
//! measured. Both ends share the machine's cores.

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One kept-alive HTTP connection.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: String,
}

impl Http {
    pub async fn open(address: std::net::SocketAddr, token: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /graphql HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
        );
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10), head })
    }

    /// Sends one GraphQL request and takes its answer; one with errors is an error.
    pub async fn post(&mut self, body: &str) -> anyhow::Result<&[u8]> {
        let request = format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let (start, length) = loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                break (end + 4, length.context("no content-length")?.trim().parse::<usize>()?);
            }
        };
        while self.buffer.len() < start + length {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        }
        let body = &self.buffer[start..start + length];
        if find(body, b"\"errors\"").is_some() || find(body, b"\"data\"").is_none() {
            bail!("{}", String::from_utf8_lossy(body));
        }
        Ok(body)
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

/// One WebSocket with one subscription.
pub struct Subscriber {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were taken.
    taken: usize,
}

impl Subscriber {
    /// Returns once the server has acknowledged the connection and was sent the subscription.
    pub async fn open(address: std::net::SocketAddr, token: &str, payload: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let upgrade = format!(
            "GET /graphql/ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).await?;
        let mut this = Self { stream, buffer: Vec::with_capacity(4 << 10), taken: 0 };
        loop {
            this.fill().await?;
            if let Some(end) = find(&this.buffer, b"\r\n\r\n") {
                ensure!(this.buffer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&this.buffer));
                this.taken = end + 4;
                break;
            }
        }
        this.send(&format!(r#"{{"type":"connection_init","payload":{{"token":"{token}"}}}}"#)).await?;
        let ack = this.text().await?;
        ensure!(find(&ack, b"connection_ack").is_some(), "{}", String::from_utf8_lossy(&ack));
        this.send(&format!(r#"{{"id":"1","type":"subscribe","payload":{payload}}}"#)).await?;
        Ok(this)
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        Ok(())
    }

    /// One masked text frame.
    async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        let mask: [u8; 4] = fastrand::u32(..).to_be_bytes();
        let mut frame = vec![0x81];
        match u16::try_from(text.len())? {
            short @ 0..126 => frame.push(0x80 | u8::try_from(short)?),
            long => {
                frame.push(0x80 | 126);
                frame.extend(long.to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        Ok(self.stream.write_all(&frame).await?)
    }

    /// The place and length of the next whole frame in what was read, and whether it is text.
    fn frame(&self) -> anyhow::Result<Option<(bool, std::ops::Range<usize>)>> {
        let rest = &self.buffer[self.taken..];
        let [first, second, more @ ..] = rest else { return Ok(None) };
        let (header, length) = match (second & 0x7f, more) {
            (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            (126, _) => return Ok(None),
            (127, _) => bail!("a frame over 64 KiB"),
            (short, _) => (2, usize::from(short)),
        };
        let start = self.taken + header;
        if first & 0x0f == 8 {
            bail!("the server closed: {}", String::from_utf8_lossy(self.buffer.get(start..start + length).unwrap_or_default()));
        }
        Ok((rest.len() >= header + length).then(|| (first & 0x0f == 1, start..start + length)))
    }

    /// Waits for the next text frame.
    async fn text(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            while let Some((text, place)) = self.frame()? {
                self.taken = place.end;
                if text {
                    return Ok(self.buffer[place].to_vec());
                }
            }
            self.fill().await?;
        }
    }

    /// Waits until something was delivered; how many `next` messages it is. Anything else is an error.
    pub async fn deliveries(&mut self) -> anyhow::Result<u64> {
        let mut deliveries = 0;
        loop {
            while let Some((text, place)) = self.frame()? {
                self.taken = place.end;
                if text {
                    let body = &self.buffer[place];
                    ensure!(
                        body.starts_with(br#"{"id":"1","type":"next","payload":{"data""#),
                        "{}",
                        String::from_utf8_lossy(body)
                    );
                    deliveries += 1;
                }
            }
            if deliveries > 0 {
                return Ok(deliveries);
            }
            self.fill().await?;
        }
    }
}
