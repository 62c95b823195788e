//! A VM's life on a real host, as a user leads it from the command line.

use crate::lab::{Scene, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_boots_answers_keeps_its_disk_and_leaves_nothing_behind() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    let twice = scene.run(&["image", "import", guest(), "--name", "guest"]).await;
    assert_eq!(twice.code, 5, "{}{}", twice.out, twice.err);
    let nobody = scene.run(&["vm", "create", "x", "--image", "nobody", "--on", "h1"]).await;
    assert!(nobody.code == 5 && nobody.err.contains("image import"), "{}{}", nobody.out, nobody.err);
    scene.ok(&["vm", "remove", "x"]).await;

    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "ssh-ed25519 AAAAC3Nza me@here\n").unwrap();
    scene.create("web", &["--disk", "data=16MiB", "--disk", "192MiB", "--ssh-key", keys.path().to_str().unwrap()]).await;
    let said = scene.answers("web").await;
    assert_eq!(said["hostName"], "web", "the seed was not read: {said}");
    assert!(said["os"].as_str().unwrap().contains("lab"), "{said}");
    scene
        .until("what it uses to be measured", async || {
            let bytes = scene.vm("web").await["usage"]["memoryBytes"].take();
            (bytes.is_string() || bytes.is_u64()).then_some(())
        })
        .await;
    let in_use = scene.run(&["image", "remove", "guest"]).await;
    assert!(in_use.code == 5 && in_use.err.contains("made of"), "{}{}", in_use.out, in_use.err);

    assert!(scene.ok(&["vm", "pause", "web"]).await.contains("PAUSED"));
    assert_eq!(scene.vm("web").await["guest"], serde_json::Value::Null, "a guest that stands still says nothing");
    assert!(scene.ok(&["vm", "resume", "web"]).await.contains("RUNNING"));
    scene.answers("web").await;
    assert!(scene.ok(&["vm", "reboot", "web"]).await.contains("RUNNING"));
    scene.until("the second boot", async || (scene.lab.boots("web") == Some(2)).then_some(())).await;
    scene.answers("web").await;
    // The power button, and the guest heeds it: nothing was pulled.
    assert!(scene.ok(&["vm", "stop", "web"]).await.contains("STOPPED"));
    assert!(scene.lab.virsh(1, &["domstate", "--reason", &scene.lab.domains(1)[0].0]).contains("shutdown"));
    assert!(scene.ok(&["vm", "start", "web"]).await.contains("RUNNING"));
    scene.until("the third boot", async || (scene.lab.boots("web") == Some(3)).then_some(())).await;
    assert!(scene.ok(&["vm", "stop", "web", "--force"]).await.contains("STOPPED"));
    scene.ok(&["vm", "remove", "web"]).await;
    scene.nothing_left(1).await;
    scene.ok(&["image", "remove", "guest"]).await;
    scene
        .until("the host's copy of the image to go", async || {
            (std::fs::read_dir(scene.lab.images(1)).unwrap().count() == 0).then_some(())
        })
        .await;
}
