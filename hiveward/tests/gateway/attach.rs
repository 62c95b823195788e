//! Terminals of agents: over the gateway's WebSocket, and as a user has them with `hiveward agent attach`.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::support::{TOKEN, node::TestNode, soon};

const CREATE: &str = "mutation($i:CreateAgentInput!){createAgent(input:$i){agent{id}}}";
const SUBMIT: &str = "mutation($i:SubmitTaskInput!){submitTask(input:$i){task{id}}}";

async fn agent(node: &TestNode, name: &str, session: Value) -> String {
    let made = node.ok(CREATE, json!({ "i": { "name": name, "swarm": "default", "session": session } })).await;
    made["createAgent"]["agent"]["id"].as_str().unwrap().to_owned()
}

/// Starts a shell with that agent and gives the task, once it runs.
async fn shell(node: &TestNode, agent: &str, script: &str) -> String {
    let command = json!({ "argv": ["sh", "-c", script] });
    let made = node.ok(SUBMIT, json!({ "i": { "agent": agent, "command": command } })).await;
    let task = made["submitTask"]["task"]["id"].as_str().unwrap().to_owned();
    soon("the task runs", async {
        while status(node, &task).await != "RUNNING" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    task
}

async fn status(node: &TestNode, task: &str) -> String {
    let data = node.ok("query($i:ID!){node(id:$i){...on Task{status}}}", json!({ "i": task })).await;
    data["node"]["status"].as_str().unwrap().to_owned()
}

struct Screen {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    shown: String,
}

impl Screen {
    async fn open(node: &TestNode, query: &str, token: Option<&str>) -> Result<Self, tungstenite::Error> {
        let url = node.url(&format!("/attach/ws?{query}")).replace("http://", "ws://");
        let mut request = url.into_client_request()?;
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(Self { socket: connect_async(request).await?.0, shown: String::new() })
    }

    async fn text(&mut self) -> Value {
        loop {
            match soon("a text frame", self.socket.next()).await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Binary(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    async fn attached(node: &TestNode, query: &str) -> Self {
        let mut screen = Self::open(node, query, Some(TOKEN)).await.unwrap();
        let first = screen.text().await;
        assert_eq!(first["type"], "attached", "{first}");
        screen
    }

    async fn type_in(&mut self, text: &str) {
        self.socket.send(Message::binary(text.as_bytes().to_vec())).await.unwrap();
    }

    async fn resize(&mut self, cols: u16, rows: u16) {
        let resize = json!({ "type": "resize", "cols": cols, "rows": rows });
        self.socket.send(Message::text(resize.to_string())).await.unwrap();
    }

    async fn shows(&mut self, what: &str) {
        while !self.shown.contains(what) {
            match soon(&format!("{what:?} after {:?}", self.shown), self.socket.next()).await.unwrap().unwrap() {
                Message::Binary(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Close(frame) => panic!("closed: {frame:?} after {:?}", self.shown),
                _ => {}
            }
        }
    }

    async fn closed(&mut self) -> u16 {
        loop {
            match soon("a close", self.socket.next()).await.unwrap().unwrap() {
                Message::Close(Some(frame)) => return frame.code.into(),
                Message::Close(None) => panic!("closed without a code"),
                _ => {}
            }
        }
    }
}

const ASK: &str = "echo ready; while read line; do eval \"$line\"; done";

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_types_sees_resizes_and_leaves_and_the_process_lives_on() {
    let node = TestNode::start().await;
    let agent = agent(&node, "seat", json!({ "kind": "PTY", "cols": 100, "rows": 30 })).await;
    let task = shell(&node, &agent, ASK).await;

    let mut screen = Screen::attached(&node, &format!("agent={agent}")).await;
    screen.shows("ready").await;
    screen.type_in("stty size\n").await;
    screen.shows("30 100").await;
    screen.resize(90, 27).await;
    screen.type_in("stty size; echo $((40 + 2))\n").await;
    screen.shows("27 90").await;
    screen.shows("42").await;
    drop(screen);
    assert_eq!(status(&node, &task).await, "RUNNING");

    // Come back; a second one watches beside, and is not heard when it types.
    let mut screen = Screen::attached(&node, &format!("agent={agent}&task={task}")).await;
    let mut watcher = Screen::attached(&node, &format!("agent={agent}&readOnly=true")).await;
    screen.type_in("echo se''cond\n").await;
    screen.shows("second").await;
    watcher.shows("second").await;
    watcher.type_in("echo intru''der\n").await;
    assert_eq!(watcher.text().await["code"], "REFUSED");

    // Two who type take the keyboard from each other, and nothing is lost.
    let mut other = Screen::attached(&node, &format!("agent={agent}")).await;
    other.type_in("echo th''ird\n").await;
    screen.shows("third").await;
    screen.type_in("echo fou''rth\n").await;
    other.shows("fourth").await;
    assert!(!screen.shown.contains("intruder"));

    screen.type_in("exit 7\n").await;
    assert_eq!(screen.text().await, json!({ "type": "ended", "how": "exit status 7" }));
    assert_eq!(screen.closed().await, 1000);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_cannot_be_says_why() {
    let node = TestNode::start().await;
    let idle = agent(&node, "idle", json!({ "kind": "PTY" })).await;
    let pipes = agent(&node, "pipes", json!({ "kind": "PIPES" })).await;
    for (query, token, code, says) in [
        (format!("agent={idle}"), TOKEN, 4409, "no terminal session running"),
        (format!("agent={pipes}"), TOKEN, 4409, "PTY"),
        ("agent=nobody".into(), TOKEN, 4400, "agent"),
        ("agent=agent_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5".into(), TOKEN, 4404, "no agent"),
    ] {
        let mut screen = Screen::open(&node, &query, Some(token)).await.unwrap();
        let told = screen.text().await;
        assert!(told["message"].as_str().unwrap().contains(says), "{told}");
        assert_eq!(screen.closed().await, code, "{told}");
    }
    // Without a credential nothing is told of the agent, and a wrong one opens nothing.
    assert!(Screen::open(&node, &format!("agent={idle}"), Some("wrong")).await.is_err());
    let mut silent = Screen::open(&node, &format!("agent={idle}"), None).await.unwrap();
    silent.resize(1, 1).await;
    assert_eq!(silent.closed().await, 4401);
    let mut late = Screen::open(&node, &format!("agent={idle}"), None).await.unwrap();
    late.socket.send(Message::text(json!({"type": "connection_init", "payload": {"token": TOKEN}}).to_string())).await.unwrap();
    assert_eq!(late.text().await["code"], "REFUSED");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_attaches_and_gives_the_terminal_back() {
    let node = TestNode::start().await;
    let agent = agent(&node, "seat", json!({ "kind": "PTY" })).await;
    let task = shell(&node, &agent, ASK).await;

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = |cols, rows| Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size(71, 23)).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    let before = tcgetattr(&slave).unwrap();
    assert!(before.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));

    let mut command = Command::new(env!("CARGO_BIN_EXE_hiveward"));
    command.args(["agent", "attach", "seat"]).env("HIVEWARD_URL", node.url("")).env("HIVEWARD_TOKEN", TOKEN);
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It holds the terminal open, and the reader below would never come to an end.
    drop(command);
    let mut keys = std::fs::File::from(master.try_clone().unwrap());
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<Vec<u8>>(64);
    let mut out = std::fs::File::from(master.try_clone().unwrap());
    let reading = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = out.read(&mut piece) {
            if sender.blocking_send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut shown = String::new();
    let mut shows = async |what: &str| {
        while !shown.contains(what) {
            let piece = soon(&format!("{what:?} after {shown:?}"), pieces.recv()).await.unwrap();
            shown.push_str(&String::from_utf8_lossy(&piece));
        }
    };
    shows("ready").await;
    keys.write_all(b"stty size\r").unwrap();
    shows("23 71").await;
    assert!(!tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON), "the terminal is not raw");

    // The kernel tells a terminal's own session only; this process is not of it, so it is told by hand.
    tcsetwinsize(&master, size(81, 25)).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    soon("the new size", async {
        loop {
            keys.write_all(b"stty size\r").unwrap();
            if tokio::time::timeout(Duration::from_millis(300), shows("25 81")).await.is_ok() {
                return;
            }
        }
    })
    .await;

    keys.write_all(b"\x1d").unwrap();
    let ended = soon(
        "the command ends",
        tokio::task::spawn_blocking(move || {
            let status = child.wait().unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            (status, said)
        }),
    )
    .await
    .unwrap();
    assert!(ended.0.success() && ended.1.contains("Ctrl-] detaches") && ended.1.contains("detached"), "{ended:?}");
    let after = tcgetattr(&slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!((after.input_modes, after.output_modes), (before.input_modes, before.output_modes));
    assert_eq!(status(&node, &task).await, "RUNNING");
    drop((slave, keys, master));
    reading.join().unwrap();
    node.stop().await;
}
