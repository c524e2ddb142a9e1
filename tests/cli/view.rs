//! The workbench's server: who is let in, what is kept, and what happens when it is killed.

use crate::common::micrographs::folder_of as with_micrographs;
use crate::common::program::{epicker, is_refused, wait_until};
use crate::common::served::Served;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

fn particle(id: &str, x: f64) -> serde_json::Value {
    json!({ "op": "add", "item": { "id": id, "kind": "particle", "x": x, "y": 50.0 } })
}

#[test]
fn a_request_that_is_not_the_pages_is_refused() {
    let folder = with_micrographs(2);
    fs::write(folder.path().join("secret"), "secret").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("secret"), folder.path().join("mics/link")).unwrap();
    let served = Served::start(folder.path(), &["mics"]);
    let (address, token) = (served.address.clone(), served.token.clone());
    let ask = |line: &str, more: &str| served.ask(&format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n"));
    let with_token = format!("X-Epicker-Token: {token}\r\n");
    assert_eq!(served.get("/api/session").status, 200);
    assert_eq!(served.get("/").status, 200);
    // Without the token, with another one, from another page, under another name.
    for path in ["/", "/api/session", "/api/tile/0/0/0/0", "/api/labels/0"] {
        assert_eq!(ask(&format!("GET {path}"), "").status, 403);
        assert_eq!(ask(&format!("GET {path}"), "X-Epicker-Token: 00\r\n").status, 403);
    }
    assert_eq!(ask("GET /api/session", &format!("{with_token}Origin: http://evil.example\r\n")).status, 403);
    assert_eq!(ask("GET /api/session", &format!("{with_token}Sec-Fetch-Site: cross-site\r\n")).status, 403);
    let rebound = format!("GET /api/session HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n{with_token}\r\n");
    assert_eq!(served.ask(&rebound).status, 403);
    assert_eq!(ask("DELETE /api/session", &with_token).status, 405);
    // Nothing but micrographs by number can be named.
    for path in
        ["/../secret", "/api/../../secret", "/api/tile/../secret", "/api/tile/link/0/0/0", "/api/labels/9", "/api/labels/-1", "/link", "/x"]
    {
        let answer = ask(&format!("GET {path}"), &with_token);
        assert!(answer.status == 404 || answer.status == 400, "{path}: {}", answer.status);
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret\n"));
    }
    assert_eq!(served.post("/api/models", &json!({ "use": "../../mics" })).status, 400);
    // The page runs nothing but its own script, and nobody may frame it.
    let head = served.get("/").head;
    assert!(head.contains("default-src 'none'; script-src 'nonce-") && head.contains("frame-ancestors 'none'"), "{head}");
    assert_ne!(served.get("/").head, head, "a nonce is used once");
}

#[test]
fn sizes_connections_and_times_are_bounded() {
    let folder = with_micrographs(1);
    let served = Served::start(folder.path(), &["mics"]);
    let (address, token) = (served.address.clone(), served.token.clone());
    // A body of a gigabyte is refused before it is sent.
    let head = format!("POST /api/labels/0 HTTP/1.1\r\nHost: {address}\r\nX-Epicker-Token: {token}\r\nConnection: close\r\n");
    assert_eq!(served.ask(&format!("{head}Content-Length: 1073741824\r\n\r\n")).status, 413);
    // So is one that does not say how long it is, as soon as it is too long.
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    assert_eq!(served.ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(6))).status, 413);
    // A head without end.
    let endless = served.ask(&format!("GET / HTTP/1.1\r\nHost: {address}\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20)));
    assert!(endless.status == 431 || endless.status == 0, "{}", endless.status);
    // Connections that say nothing are closed, and while they last, no more than a bounded number is open: the others are closed at once.
    let mut silent: Vec<TcpStream> = (0..600).filter_map(|_| TcpStream::connect(&address).ok()).collect();
    let is_closed = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(stream.read(&mut [0]), Ok(0)) || stream.write_all(b"G").is_err()
    };
    wait_until(|| silent.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count() >= 300);
    wait_until(|| served.get("/api/session").status == 200);
    wait_until(|| silent.iter_mut().all(is_closed));
    assert_eq!(served.get("/api/session").status, 200);
}

#[test]
fn labels_outlive_a_kill_and_every_command_reads_them() {
    let folder = with_micrographs(2);
    let mut served = Served::start(folder.path(), &["mics"]);
    let answer = served.post("/api/labels/1", &json!({ "window": "w1", "seen": 1, "ops": [particle("p1", 100.5)] }));
    assert_eq!(answer.json()["others"], false);
    // Another window, which has not seen that.
    let answer = served.post("/api/labels/1", &json!({ "window": "w2", "seen": 1, "ops": [particle("p2", 200.0)] }));
    assert_eq!(answer.json()["others"], true);
    let changed = |window: &str| served.get(&format!("/api/state?since=1&window={window}")).json()["changed"].clone();
    assert_eq!((changed("w1"), changed("w2")), (json!([1]), json!([])));
    let refused = served.post("/api/labels/1", &json!({ "window": "w1", "seen": 1, "ops": [{ "op": "add", "item": { "kind": "x" } }] }));
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().contains("ops, entry 1"));
    served.run.signal("KILL");
    served.run.end();

    // The labels are a coordinate file like any other.
    let text = fs::read_to_string(folder.path().join("workbench/labels/m001.star")).unwrap();
    assert!(text.contains("100.50\t50.00") && text.contains("200.00\t50.00"), "{text}");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let converted = epicker(&["coords", &path("workbench/labels"), "--to", "box", "--box_size", "20", "--output", &path("boxes")]);
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    assert_eq!(fs::read_to_string(folder.path().join("boxes/m001.box")).unwrap().lines().count(), 2);
    let checked = epicker(&["check", "--data", &path("mics"), "--label", &path("workbench/labels"), "--output", &path("check")]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    // Opened again, they are where they were.
    let served = Served::start(folder.path(), &["mics"]);
    assert_eq!(served.get("/api/labels/1").json()["items"].as_array().unwrap().len(), 2);
    let rows = served.get("/api/micrographs").json()["rows"].clone();
    assert_eq!((&rows[0][1], &rows[1][1]), (&json!(0), &json!(2)));
}

#[test]
fn one_folder_has_one_server_and_labels_of_others_are_taken_over() {
    let folder = with_micrographs(2);
    let labels = folder.path().join("given");
    fs::create_dir(&labels).unwrap();
    fs::write(labels.join("m000.box"), "10\t20\t8\t8\n30\t40\t8\t8\n").unwrap();
    let served = Served::start(folder.path(), &["mics", "--label", "given"]);
    assert_eq!(served.get("/api/labels/0").json()["items"].as_array().unwrap().len(), 2);
    let path = |name: &str| folder.path().join(name).display().to_string();
    is_refused(&epicker(&["view", &path("mics"), "--output", &path("workbench")]), "another epicker view");
    assert_eq!(names(&labels), ["m000.box"], "what was given is left alone");
    assert!(folder.path().join("workbench/labels/m000.star").is_file());
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn tiles_come_at_every_zoom_and_picks_when_they_are_looked_at() {
    let folder = with_micrographs(1);
    let served = Served::start(folder.path(), &["mics", "--angpix", "2", "--diameter", "40"]);
    let about = served.get("/api/micrograph/0").json();
    assert_eq!((&about["nx"], &about["ny"], &about["angpix"], &about["levels"]), (&json!(300), &json!(260), &json!(2.0), &json!(2)));
    for (path, size) in [("0/0/0", [256, 256]), ("0/1/1", [44, 4]), ("1/0/0", [150, 130])] {
        let tile = served.get(&format!("/api/tile/0/{path}?low=20&lo=1&hi=99&flat=1"));
        assert_eq!(tile.status, 200);
        let info = png::Decoder::new(std::io::Cursor::new(&tile.body)).read_info().unwrap().info().size();
        assert_eq!(info, (size[0], size[1]));
    }
    assert_eq!(served.get("/api/tile/0/0/2/0").status, 404);
    assert_eq!(served.get("/api/tile/0/2/0/0").status, 404);
    assert_eq!(served.get("/api/picks/0").json()["pending"], true);
    wait_until(|| served.get("/api/picks/0").json()["pending"].is_null());
    assert!(served.get("/api/state?since=0&window=a").json()["picks_rev"].as_u64().unwrap() > 0);
    wait_until(|| served.get("/api/scores").json()["loaded"] == 1);
    // A threshold that is applied is that of the files.
    let answer = served.post("/api/threshold", &json!({ "threshold": 0.02, "write": true })).json();
    assert!(answer["line"].as_str().unwrap().starts_with("1 coordinate file written to "), "{answer}");
    assert!(folder.path().join("workbench/picks/general-40A/m000.thi").is_file());
    assert_eq!(served.post("/api/learn", &json!({})).status, 409, "there are no labels to learn from");
}
