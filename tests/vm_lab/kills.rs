//! kill -9 of QEMU, of libvirtd and of `hiveward`, at the steps of a VM's life: each ends in a stated state, and nothing leaks.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab::Scene;

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
    // What its host uses is asked of each QEMU, and waited for; then that is given up, and the deaf one is passed over.
    for wanted in [false, true] {
        scene
            .until("what it uses to be given up, and measured again", async || {
                for (step, then) in [("stop", "STOPPED"), ("start", "RUNNING")] {
                    let forced = if step == "stop" { Some("--force") } else { None };
                    let said = scene.ok(&[&["vm", step, "web"][..], forced.as_slice()].concat()).await;
                    assert!(said.contains(then), "{said}");
                }
                assert_eq!(scene.json(&["host", "show", "h1"]).await["status"], "UP");
                (measured().await == wanted).then_some(())
            })
            .await;
    }
    scene.lab.kill_qemu("web");
    scene.until("it to be started again", async || ended(&scene.vm("web").await, "recover").then_some(())).await;
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
