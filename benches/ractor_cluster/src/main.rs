//! Bare ractor_cluster between two processes: the round trip that the router's is held against.
//!
//! `bare-ractor-cluster CALLS` starts itself as the other node and prints microseconds, one call a line.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::{NodeServer, RactorClusterMessage, client_connect};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const GROUP: &str = "echo";

#[derive(RactorClusterMessage)]
enum Echo {
    #[rpc]
    Say(u64, RpcReplyPort<u64>),
}

struct Echoes;

impl Actor for Echoes {
    type Msg = Echo;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Echo>, (): ()) -> Result<(), ActorProcessingErr> {
        ractor::pg::join(GROUP.into(), vec![myself.get_cell()]);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Echo>, Echo::Say(number, reply): Echo, (): &mut ()) -> Result<(), ActorProcessingErr> {
        Ok(reply.send(number)?)
    }
}

async fn node(name: &str) -> Result<(ActorRef<ractor_cluster::NodeServerMessage>, u16), Failed> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let server = NodeServer::new(port, "a cookie".into(), name.into(), "localhost".into(), None, None)
        .with_listen_addr([127, 0, 0, 1].into());
    Ok((Actor::spawn(None, server, ()).await?.0, port))
}

async fn serve() -> Result<(), Failed> {
    let (_server, port) = node("b").await?;
    Actor::spawn(None, Echoes, ()).await?;
    println!("{port}");
    // Until the parent closes it, or dies.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn ask(calls: usize) -> Result<(), Failed> {
    let mut child = Command::new(std::env::current_exe()?).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut port)?;
    let (server, _) = node("a").await?;
    client_connect(&server, ("127.0.0.1", port.trim().parse::<u16>()?)).await?;
    let echo: ActorRef<Echo> = loop {
        if let Some(cell) = ractor::pg::get_members(&GROUP.to_owned()).into_iter().next() {
            break cell.into();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut out = std::io::BufWriter::new(std::io::stdout());
    for number in 0..calls as u64 {
        let asked = Instant::now();
        let answer = ractor::call_t!(echo, Echo::Say, 5000, number)?;
        let took = asked.elapsed();
        assert_eq!(answer, number);
        writeln!(out, "{:.3}", took.as_secs_f64() * 1e6)?;
    }
    out.flush()?;
    drop(child.stdin.take());
    child.wait()?;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve().await,
        Some(calls) => ask(calls.parse()?).await,
        None => Err("how many calls?".into()),
    }
}
