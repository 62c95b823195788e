//! Promise: an image comes over HTTP whole and as it was asked for, or nothing of it is kept and it is said why.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use hiveward_runtime::store::blob::Blobs;
use hiveward_tests::{Hive, Setup};
use serde_json::Value;

const BYTES: usize = 3 << 20;

fn image() -> Vec<u8> {
    (0..BYTES).map(|at| (at / 512 % 251) as u8).collect()
}

/// A server on loopback that does to whom asks what the path says, for as long as this process lives.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    format!("http://{place}")
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let asked = lines.next()?;
    let path = asked.split(' ').nth(1)?.to_owned();
    lines.find(String::is_empty)?;
    let body = image();
    let length = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut say = |bytes: &[u8]| stream.write_all(bytes).ok();
    match path.split('?').next()? {
        "/disk.raw" => {
            say(length.as_bytes())?;
            say(&body)
        }
        "/cut" => {
            say(length.as_bytes())?;
            say(&body[..BYTES / 2])
        }
        "/endless" => {
            say(length.as_bytes())?;
            stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
            // A byte each time it was waited in vain for who asked to hang up.
            while matches!(stream.read(&mut [0]), Err(waited) if waited.kind() == ErrorKind::WouldBlock) {
                stream.write_all(&[0]).ok()?;
            }
            None
        }
        // As servers of old did: its end is the end of the connection.
        "/unsaid" => {
            say(b"HTTP/1.0 200 OK\r\n\r\n")?;
            say(&body)
        }
        "/moved" => say(b"HTTP/1.1 302 Found\r\nlocation: /disk.raw\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        "/around" => say(b"HTTP/1.1 302 Found\r\nlocation: /around\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        _ => say(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
    }
}

/// How many blobs there are, and how many that are not whole.
fn blobs(hive: &Hive) -> (usize, usize) {
    let (mut whole, mut parts) = (0, 0);
    let mut waiting = vec![hive.data_dir().join("blobs")];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            // What a blob's pieces are checked by lies beside it.
            if entry.path().extension().is_some() {
                continue;
            }
            match (entry.file_type().unwrap().is_dir(), entry.path().parent().unwrap().ends_with("new")) {
                (true, _) => waiting.push(entry.path()),
                (false, true) => parts += 1,
                (false, false) => whole += 1,
            }
        }
    }
    (whole, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_over_http_whole_and_as_asked_or_nothing_of_it_is_kept_and_that_is_said() {
    let (hive, url) = (Hive::start(Setup::default()).await, server());
    let import = async |path: &str, name: &str, more: &[&str]| {
        let source = format!("{url}{path}");
        hive.cli(&[&["image", "import", &source, "--name", name], more].concat()).await
    };
    let before = blobs(&hive);
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (path, more, says) in [
        ("/disk.raw", &["--checksum", &*wrong][..], "and not 0000"),
        ("/cut", &[], "broke off after"),
        ("/unsaid", &[], "give a checksum"),
        ("/around", &[], "redirect"),
        ("/nothing", &[], "404"),
    ] {
        let ran = import(path, "refused", more).await;
        assert!(ran.code != 0 && ran.err.contains(says) && ran.err.contains("nothing is kept"), "{path}: {ran:?}");
        assert_eq!(blobs(&hive), before, "{path} left something");
    }
    assert_eq!(hive.cli(&["-o", "json", "image", "list"]).await.out.trim(), "[]");

    // Sent by way of another address, with a secret that is not shown.
    let own = Blobs::open(hive.own_dir().join("own")).unwrap();
    let hash = own.put(&image()).unwrap().to_string();
    for (path, name) in [("/disk.raw?token=secret", "plain"), ("/moved", "moved"), ("/unsaid", "unsaid")] {
        let checksum = format!("blake3:{hash}");
        let ran = import(path, name, &["--checksum", &checksum]).await;
        assert_eq!(ran.code, 0, "{path}: {ran:?}");
        let shown: Value = serde_json::from_str(&hive.cli(&["-o", "json", "image", "show", name]).await.out).unwrap();
        assert_eq!((shown["bytes"].as_u64(), shown["hash"].as_str()), (Some(BYTES as u64), Some(&*hash)), "{shown}");
        assert!(!shown.to_string().contains("secret"), "{shown}");
    }
    assert_eq!(blobs(&hive), (before.0 + 1, before.1), "the same bytes are kept once");

    // A server that trickles for ever is given up.
    let ran = import("/endless", "endless", &[]).await;
    assert!(ran.code != 0 && ran.err.contains("KiB came within"), "{ran:?}");
    assert_eq!(blobs(&hive), (before.0 + 1, before.1));
}
