//! kill -9 of QEMU, of libvirtd and of `hiveward`, at the steps of a VM's life: each ends in a stated state, and nothing leaks.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab::Scene;

/// They come every five seconds.
const TWO_MEASUREMENTS: Duration = Duration::from_secs(10);

fn ended(vm: &serde_json::Value, kind: &str) -> bool {
    let all = vm["operations"].as_array().unwrap();
    all.iter().any(|operation| operation["kind"] == kind && operation["status"] == "SUCCEEDED")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_qemu_says_nothing_holds_up_no_other_and_its_host_is_up() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    for name in ["web", "other", "deaf"] {
        scene.create(name, &[]).await;
    }
    let measured = async || !scene.vm("other").await["usage"]["memoryBytes"].is_null();
    scene.until("what it uses to be measured", async || measured().await.then_some(())).await;
    scene.lab.signal_qemu("deaf", Signal::SIGSTOP);
    // What VMs use is asked of each QEMU, and the deaf one is waited for: nothing new is measured of the others.
    let newest = async || scene.json(&["vm", "stats", "other"]).await.as_array().unwrap().last().unwrap()["at"].clone();
    let mut last = (newest().await, Instant::now());
    scene
        .until("the deaf one to be waited for", async || {
            let now = newest().await;
            if now != last.0 {
                last = (now, Instant::now());
            }
            (last.1.elapsed() > TWO_MEASUREMENTS).then_some(())
        })
        .await;
    scene.lab.kill_qemu("web");
    scene.until("it to be started again", async || ended(&scene.vm("web").await, "recover").then_some(())).await;
    assert!(measured().await && newest().await == last.0, "it was seen only after the deaf one was given up");
    // Then that is given up, and the deaf one is passed over.
    for wanted in [false, true] {
        scene
            .until("what it uses to be given up, and measured again", async || {
                assert!(scene.ok(&["vm", "stop", "web", "--force"]).await.contains("STOPPED"));
                assert!(scene.ok(&["vm", "start", "web"]).await.contains("RUNNING"));
                assert_eq!(scene.json(&["host", "show", "h1"]).await["status"], "UP");
                (measured().await == wanted).then_some(())
            })
            .await;
    }
    scene.lab.signal_qemu("deaf", Signal::SIGCONT);
    for name in ["web", "other", "deaf"] {
        scene.status(name, "RUNNING").await;
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_outlives_the_death_of_its_qemu_of_libvirtd_and_of_the_node() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &[]).await;
    scene.answers("web").await;

    // Its QEMU: an accident, and it is started again.
    scene.lab.kill_qemu("web");
    let recovered = scene.until("it to be started again", async || {
        let vm = scene.vm("web").await;
        (vm["status"] == "RUNNING" && ended(&vm, "recover")).then_some(vm)
    });
    assert_eq!(recovered.await["failure"], json!(null));
    scene.answers("web").await;

    // libvirtd: nobody can be asked, the guest runs on, and the connection is another one afterwards.
    let qemus = scene.lab.qemus();
    scene.lab.kill_daemon(1);
    scene
        .until("the host to be shown as it is", async || {
            let host = scene.json(&["host", "show", "h1"]).await;
            (host["status"] == "UNREACHABLE").then_some(())
        })
        .await;
    assert_eq!(scene.vm("web").await["status"], "LOST");
    scene.lab.start_daemon(1);
    scene.status("web", "RUNNING").await;
    assert_eq!(scene.lab.qemus(), qemus, "the guest was started anew");

    // A libvirtd that hangs is shown, too, and mends itself.
    scene.lab.signal_daemon(1, Signal::SIGSTOP);
    scene
        .until("the host that hangs to be shown", async || {
            let host = scene.json(&["host", "show", "h1"]).await;
            (host["status"] == "UNREACHABLE").then_some(())
        })
        .await;
    scene.lab.signal_daemon(1, Signal::SIGCONT);
    scene.status("web", "RUNNING").await;

    // The node: the guest does not notice.
    scene.hive.kill();
    assert_eq!(scene.lab.qemus(), qemus);
    scene.hive.start_again().await;
    scene.status("web", "RUNNING").await;
    assert_eq!(scene.lab.qemus(), qemus, "the guest was started anew");
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_at_any_step_goes_on_with_it_and_nothing_leaks() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    for (round, (point, args)) in [
        ("vm.define", ["vm", "create"]),
        ("vm.define.done", ["vm", "create"]),
        ("vm.start", ["vm", "create"]),
        ("vm.start.done", ["vm", "create"]),
        ("vm.destroy.done", ["vm", "remove"]),
        ("vm.undefine", ["vm", "remove"]),
        ("vm.undefine.done", ["vm", "remove"]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("k{round}");
        if args == ["vm", "remove"] {
            scene.create(&name, &[]).await;
        }
        scene.ok(&["fault", "inject", point, "abort"]).await;
        if args == ["vm", "create"] {
            scene.run(&["vm", "create", &name, "--image", "guest", "--memory", "128MiB", "--no-wait"]).await;
        } else {
            scene.run(&["vm", "remove", &name, "--force", "--no-wait"]).await;
        }
        scene.hive.wait();
        scene.hive.start_again().await;
        if args == ["vm", "create"] {
            scene.status(&name, "RUNNING").await;
            assert_eq!(scene.lab.qemus().len(), 1, "at {point}");
            scene.ok(&["vm", "remove", &name, "--force"]).await;
        } else {
            scene.until("its end", async || (scene.run(&["vm", "show", &name]).await.code == 3).then_some(())).await;
        }
        scene.nothing_left(1).await;
    }
}
