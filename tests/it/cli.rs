//! The commands of the command line, through the real program.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use crate::ports::reserve;
use crate::program::{Home, SECRET, config, get};
use crate::wait::eventually;

const THREAD: &str = "6f1f9f3e-2b1c-4a53-9d0b-1f0d6f7a8b9c";

/// A folder with a configuration.
fn configured() -> (Home, String) {
    let home = Home::new();
    // The server posts to itself, so its address must be known before.
    let text = config(&home.path("data"), [0, 0, reserve()]);
    let name = home.write("postern.toml", &text).display().to_string();
    (home, name)
}

#[test]
fn a_minted_address_names_its_thread() {
    let (home, file) = configured();
    let mint = ["token", "mint", "--thread", THREAD, "--config", &file];
    let address = home.run(&mint).ok();
    let address = address.trim_end();
    assert!(address.starts_with("reply+"), "{address}");
    assert!(address.ends_with("@inbox.example.com"), "{address}");
    assert!(!home.path("data").exists(), "arithmetic needs no folder");
    let said = home
        .run(&["token", "inspect", address, "--json", "--config", &file])
        .ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["thread"], THREAD);
    assert_eq!(said["participant"], "unbound");
    let bound = [&mint[..], &["--participant", "ann@example.com"]].concat();
    let bound = home.run(&bound).ok();
    let said = home
        .run(&["token", "inspect", bound.trim_end(), "--config", &file])
        .ok();
    assert!(said.contains("participant: bound\n"), "{said}");
    let forged = address.replace("reply+e", "reply+f");
    let forged = home.run(&["token", "inspect", &forged, "--config", &file]);
    assert_eq!(forged.code, Some(65), "{forged:?}");
    assert_eq!(forged.err, "postern: token was not signed by us\n");
}

#[test]
fn a_thread_that_is_no_uuid_is_remembered() {
    let (home, file) = configured();
    let none = home.run(&["token", "mint", "--thread", "order-7", "--config", &file]);
    assert_eq!(
        none.code,
        Some(66),
        "a folder is not made by asking: {none:?}"
    );
    std::fs::create_dir(home.path("data")).unwrap();
    let minted = home
        .run(&["token", "mint", "--thread", "order-7", "--config", &file])
        .ok();
    let mail = home.write("hi.eml", "From: ann@example.com\nSubject: hi\n\nHello\n");
    let explained = home.run(&[
        "mail",
        "explain",
        mail.to_str().unwrap(),
        "--rcpt",
        minted.trim_end(),
        "--store",
        "--json",
        "--config",
        &file,
    ]);
    let explained: Value = serde_json::from_str(&explained.ok()).unwrap();
    assert_eq!(explained["thread"]["match"], "order-7");
    assert_eq!(explained["thread"]["reason"], "token");
}

#[test]
fn a_mail_is_explained() {
    let (home, file) = configured();
    let address = home
        .run(&["token", "mint", "--thread", THREAD, "--config", &file])
        .ok();
    let address = address.trim_end();
    let text = format!(
        "From: Ann <ann@example.com>\r\nTo: {address}\r\nSubject: Re: your order\r\n\
         Message-ID: <a1@example.com>\r\n\r\nYes, please!\r\n\r\n\
         On Mon, 1 Jun 2026 at 10:00, Shop <shop@example.com> wrote:\r\n> Shall we send it?\r\n"
    );
    let mail = home.write("reply.eml", &text);
    let mail = mail.to_str().unwrap();
    let explained = home
        .run(&["mail", "explain", mail, "--json", "--config", &file])
        .ok();
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["kind"], "person");
    assert_eq!(explained["subject"], "Re: your order");
    assert_eq!(explained["from"], "ann@example.com");
    assert_eq!(explained["reply"]["text"], "Yes, please!");
    let quoted = explained["reply"]["quoted"].as_str().unwrap();
    assert!(quoted.contains("Shall we send it?"), "{quoted}");
    for key in ["html", "signature", "method", "confidence"] {
        assert!(explained["reply"].get(key).is_some(), "{key}");
    }
    assert_eq!(explained["thread"]["match"], THREAD);
    assert_eq!(explained["thread"]["reason"], "token");
    assert_eq!(explained["rule"], "known-thread");
    assert_eq!(explained["priority"], "standard");
    assert_eq!(explained["mailbox"], "general");
    assert_eq!(explained["ruling"]["action"], "post");
    assert_eq!(explained["dsn"], Value::Null);
    assert_eq!(explained["attachments"], serde_json::json!([]));
    assert_eq!(explained["authentication"]["spf"], "none");
    let other = [
        "mail",
        "explain",
        mail,
        "--rcpt",
        "reply+x@inbox.example.com",
        "--json",
    ];
    let other = home.run(&[&other[..], &["--config", &file]].concat());
    assert_eq!(other.code, Some(67), "{other:?}");
    assert!(other.err.contains("550 5.1.1"), "{other:?}");
    let other: Value = serde_json::from_str(&other.out).unwrap();
    assert_eq!(other["thread"]["reason"], "token_forged");
    assert_eq!(other["ruling"]["action"], "refuse");
    let response = other["smtp"]["rcpt"].as_str().unwrap();
    assert!(response.starts_with("550 5.1.1 "), "{response}");
    let claim = "From: a@example.com\r\nTo: business@inbox.example.com\r\n\
                 Subject: DMCA takedown\r\n\r\nStop it.\r\n";
    let claim = home.write("claim.eml", claim);
    let claim = ["mail", "explain", claim.to_str().unwrap(), "--json"];
    let claim = home.run(&[&claim[..], &["--config", &file]].concat()).ok();
    let claim: Value = serde_json::from_str(&claim).unwrap();
    assert_eq!(claim["mailbox"], "dmca");
    assert_eq!(claim["priority"], "priority");
    assert_eq!(claim["rule"], "dmca-subject");
}

#[test]
fn a_mail_without_recipient_is_explained_too() {
    let (home, file) = configured();
    for (rcpt, reason) in [
        ("nobody@inbox.example.com", "no_such_mailbox"),
        ("general@elsewhere.example", "foreign_domain"),
    ] {
        let command = [
            "mail", "explain", "-", "--rcpt", rcpt, "--json", "--config", &file,
        ];
        let ran = home.run_fed(&command, b"Thanx :-)\n\nSent from my iPad\n");
        assert_eq!(ran.code, Some(67), "{ran:?}");
        let explained: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(explained["ruling"]["action"], "refuse");
        assert_eq!(explained["thread"]["reason"], reason);
        assert_eq!(explained["thread"]["match"], Value::Null);
        assert_eq!(explained["reply"]["text"], "Thanx :-)");
    }
}

/// `mail explain` predicts the delivery: an answer to a mail joins its thread, and a copy and a machine's
/// mail are dropped.
#[test]
fn explain_and_delivery_agree() {
    let (home, file) = configured();
    std::fs::create_dir(home.path("data")).unwrap();
    let mail = |id: &str, more: &str| {
        let text = format!(
            "From: ann@example.com\r\nTo: general@inbox.example.com\r\nSubject: hi {id}\r\n\
             Message-ID: <{id}@example.com>\r\n{more}\r\nHello\r\n"
        );
        let path = home.write(&format!("{id}.eml"), &text);
        path.to_str().unwrap().to_owned()
    };
    let explained = |mail: &str| -> Value {
        let words = [
            "mail", "explain", mail, "--store", "--json", "--config", &file,
        ];
        serde_json::from_str(&home.run(&words).ok()).unwrap()
    };
    let to = ["--rcpt", "general@inbox.example.com", "--config", &file];
    let inject = |mail: &str| {
        home.run(&[&["mail", "inject", mail], &to[..]].concat())
            .ok()
    };
    let first = mail("a1", "");
    let answer = mail("a2", "In-Reply-To: <a1@example.com>\r\n");
    let machine = mail("a3", "Auto-Submitted: auto-replied\r\n");

    let said = explained(&first);
    assert_eq!(said["ruling"]["action"], "post");
    assert_eq!(said["smtp"]["rcpt"], "250 2.1.5 recipient ok");
    assert_eq!(said["envelopeSender"], "ann@example.com");
    assert_eq!(said["envelopeSenderAssumed"], true);
    assert_eq!(said["thread"]["reason"], "none");
    inject(&first);
    let server = home.serve(&["serve", "--config", &file]);
    let list = ["queue", "list", "--config", &file];
    eventually("it is delivered", || home.run(&list).ok().is_empty());
    let http = server.port("http").unwrap();
    let threads = get(http, "/api/v1/messages/threads", Some(SECRET)).unwrap();
    let threads: Value = serde_json::from_str(&threads).unwrap();
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");

    let copy = explained(&first);
    assert_eq!(copy["ruling"]["action"], "drop");
    assert_eq!(copy["ruling"]["rule"], "duplicate");
    let said = explained(&answer);
    assert_eq!(said["ruling"]["action"], "post");
    assert_eq!(said["thread"]["match"], threads["data"][0]["id"]);
    assert_eq!(said["thread"]["reason"], "stored_message_id");
    let said = explained(&machine);
    assert_eq!(said["ruling"]["action"], "drop");
    assert_eq!(said["ruling"]["rule"], "auto_reply");
    for mail in [&first, &answer, &machine] {
        inject(mail);
    }
    let server = home.serve(&["serve", "--config", &file]);
    eventually("all is delivered", || home.run(&list).ok().is_empty());
    let (_, log) = server.stop();
    for line in [
        "rule=\"duplicate\"",
        "rule=\"auto_reply\"",
        "matched=\"stored_message_id\"",
    ] {
        assert!(log.contains(line), "{line} in {log}");
    }
}

#[test]
fn a_file_without_header_is_a_plain_text() {
    let home = Home::new();
    let out = home
        .run_fed(&["mail", "explain", "-", "--json"], b"Thank you!\n\nBye\n")
        .ok();
    let explained: Value = serde_json::from_str(&out).unwrap();
    let text = explained["reply"]["text"].as_str().unwrap();
    assert!(text.starts_with("Thank you!"), "{text}");
    assert!(!home.path("data").exists(), "a look leaves nothing behind");
    let gone = home.run(&["mail", "explain", "gone.eml"]);
    assert_eq!(gone.code, Some(66), "{gone:?}");
}

#[test]
fn a_mail_cannot_control_the_terminal() {
    let home = Home::new();
    let mail = b"From: a@example.com\nSubject: =?utf-8?q?=1B[2Jx=E2=80=AE?=\n\nhi \x1b[31m\x9b\n";
    for flags in [&[][..], &["--json"]] {
        let out = home
            .run_fed(&[&["mail", "explain", "-"], flags].concat(), mail)
            .ok();
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(steers), "{out:?}");
    }
}

#[test]
fn the_queue_is_worked_with_and_without_a_server() {
    let (home, file) = configured();
    let list = ["queue", "list", "--config", &file];
    assert_eq!(home.run(&list).code, Some(66), "there is no folder yet");
    std::fs::create_dir(home.path("data")).unwrap();
    let mail = home.write("hi.eml", "From: ann@example.com\nSubject: hi\n\nHello\n");
    let inject = ["mail", "inject", mail.to_str().unwrap(), "--config", &file];
    // The sender is the author: with the null sender the mail would be dropped.
    let to = ["--rcpt", "general@inbox.example.com"];
    home.run(&[&inject[..], &to[..]].concat()).ok();
    let foreign = home.run(&[&inject[..], &["--rcpt", "a@elsewhere.example"]].concat());
    assert_eq!(foreign.code, Some(65), "{foreign:?}");
    let line = home.run(&list).ok();
    assert!(line.contains("waiting"), "{line}");
    assert!(
        line.contains("ann@example.com -> general@inbox.example.com"),
        "{line}"
    );
    let id = line.split_whitespace().next().unwrap();
    let shown = home.run(&["queue", "show", id, "--config", &file]).ok();
    assert_eq!(
        serde_json::from_str::<Value>(&shown).unwrap()["door"],
        "inject"
    );
    let parked = home.run(&["queue", "park", id, "--config", &file]).ok();
    assert_eq!(parked, format!("{id} parked\n"));
    for _ in 0..2 {
        let again = home.run(&["queue", "retry", id, "--reparse", "--config", &file]);
        assert_eq!(again.ok(), format!("{id} waiting\n"));
    }
    assert_eq!(
        home.run(&["queue", "drop", "x", "--config", &file]).code,
        Some(64)
    );

    let server = home.serve(&["--config", &file]);
    let http = server.port("http").unwrap();
    eventually("the queue is empty", || home.run(&list).ok().is_empty());
    let threads = get(http, "/api/v1/messages/threads", Some(SECRET)).unwrap();
    assert!(threads.contains("ann@example.com"), "{threads}");
    let report = home.run(&["doctor", "--config", &file]).ok();
    assert!(report.contains("ok    server: runs\n"), "{report}");
    server.hang_up();
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn a_reply_by_smtp_is_read_back_from_the_embedded_api() {
    let (home, file) = configured();
    let server = home.serve(&["serve", "--config", &file]);
    let [smtp, http] = ["smtp", "http"].map(|protocol| server.port(protocol).unwrap());
    let said = converse(
        smtp,
        "EHLO peer.example\r\nMAIL FROM:<ann@example.com>\r\n\
         RCPT TO:<general@inbox.example.com>\r\nDATA\r\n",
        "From: ann@example.com\r\nSubject: Where is it?\r\n\r\nStill waiting.\r\n.\r\nQUIT\r\n",
    );
    assert!(said.contains("\r\n354 "), "{said}");
    assert!(said.contains("\r\n250 2.0.0 "), "{said}");
    let threads = || get(http, "/api/v1/messages/threads", Some(SECRET)).unwrap();
    eventually("the thread is there", || threads().contains("Where is it?"));
    let threads: Value = serde_json::from_str(&threads()).unwrap();
    let id = threads["data"][0]["id"].as_str().unwrap();
    let target = format!("/api/v1/messages/threads/{id}/messages");
    let messages = || get(http, &target, Some(SECRET)).unwrap();
    eventually("the message is there", || {
        messages().contains("Still waiting.")
    });
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
}

/// Development mode has fixed ports. If another process uses one of them, the test asserts that the error
/// line names it.
#[test]
fn development_mode_prints_working_commands() {
    let home = Home::new();
    let taken: Vec<_> = [2525, 2424, 8080]
        .into_iter()
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_err())
        .collect();
    if let Some(port) = taken.first() {
        let refused = home.run(&[]);
        assert_eq!(refused.code, Some(69), "{refused:?}");
        assert!(
            taken.iter().any(|p| refused.err.contains(&p.to_string())),
            "{port}"
        );
        return;
    }
    let server = home.serve(&[]);
    let printed = server.out();
    let mut lines = printed.lines().map(str::to_owned);
    let mut find = |start: &str| lines.by_ref().find(|line| line.starts_with(start)).unwrap();
    let address = find("Reply address: ").replace("Reply address: ", "");
    let send = find("swaks ");
    assert!(send.contains(&address), "{send}");
    assert!(find("printf ").contains("curl -sS smtp://127.0.0.1:2525"));
    let read = find("curl ");
    let key = std::fs::read_to_string(home.path("data/messages-api-key")).unwrap();
    assert!(!read.contains(key.trim_end()) && read.contains("data/messages-api-key"));
    let target = read
        .split("http://127.0.0.1:8080")
        .nth(1)
        .unwrap()
        .to_owned();
    let said = converse(
        2525,
        &format!("EHLO peer\r\nMAIL FROM:<ann@example.com>\r\nRCPT TO:<{address}>\r\nDATA\r\n"),
        "From: ann@example.com\r\nSubject: Re: Welcome\r\n\r\nIt works!\r\n.\r\nQUIT\r\n",
    );
    assert!(said.contains("\r\n250 2.0.0 "), "{said}");
    let messages = || get(8080, &target, Some(key.trim_end())).unwrap();
    eventually("the message is there", || messages().contains("It works!"));
    // The printed `curl` line is executed unchanged, in the folder of the server.
    let answer = find("curl ");
    assert!(answer.contains("/gateway/outbound"), "{answer}");
    let pasted = std::process::Command::new("sh")
        .args(["-c", &answer])
        .current_dir(home.path(""))
        .output()
        .unwrap();
    let pasted: Value = serde_json::from_slice(&pasted.stdout).unwrap();
    let job = pasted["jobId"]
        .as_str()
        .unwrap_or_else(|| panic!("{pasted}"));
    let target = format!("/gateway/jobs/{job}");
    let shown = || get(8080, &target, Some(key.trim_end())).unwrap();
    eventually("the job is captured", || shown().contains("captured"));
    let report = home.run(&["doctor"]).ok();
    for port in [2525, 2424, 8080] {
        let line = format!("ok    127.0.0.1:{port}: in use, because the server runs\n");
        assert!(report.contains(&line), "{report}");
    }
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(key.trim_end()), "{log}");
}

/// Sends the commands, waits for 354 or a refusal as the last response, sends the mail and returns all
/// responses.
fn converse(port: u16, commands: &str, mail: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut heard = String::new();
    stream.write_all(commands.as_bytes()).unwrap();
    while !heard
        .lines()
        .last()
        .is_some_and(|line| line.starts_with("354"))
    {
        if reader.read_line(&mut heard).unwrap() == 0 {
            return heard;
        }
    }
    stream.write_all(mail.as_bytes()).unwrap();
    while reader.read_line(&mut heard).unwrap() > 0 {}
    heard
}

#[test]
fn a_certificate_past_its_end_is_found() {
    let (home, file) = configured();
    let host = home.path("certs/mx.example.com");
    std::fs::create_dir_all(&host).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["mx.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    for (year, code, line) in [
        (
            2020,
            69,
            "fail  certificate mx.example.com: ended 2020-01-01T00:00:00.000Z\n",
        ),
        (
            2999,
            0,
            "ok    certificate mx.example.com: good until 2999-01-01T00:00:00.000Z\n",
        ),
    ] {
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = params.self_signed(&key).unwrap();
        std::fs::write(host.join("fullchain.pem"), signed.pem()).unwrap();
        std::fs::write(host.join("privkey.pem"), key.serialize_pem()).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        // An unreachable Messages API is a failure too: the server serves its own.
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = api.local_addr().unwrap().port();
        let answer = std::thread::spawn(move || {
            let (mut stream, _) = api.accept().unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            assert!(request.any(|line| line.unwrap().is_empty()));
            let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let start = text.find("base_url").unwrap();
        let end = start + text[start..].find('\n').unwrap();
        let url = format!("base_url = \"http://127.0.0.1:{port}/api\"");
        let text = format!("{}{url}{}", &text[..start], &text[end..]);
        let tls = format!("[tls]\nfolder = \"{}\"\n", home.path("certs").display());
        let dated = home.write("dated.toml", &format!("{tls}{text}"));
        let report = home.run(&["doctor", "--config", dated.to_str().unwrap()]);
        answer.join().unwrap();
        assert_eq!(report.code, Some(code), "{report:?}");
        assert!(report.out.contains(line), "{report:?}");
    }
}

#[test]
fn commands_find_an_installation_by_themselves() {
    let (home, file) = configured();
    let folder = home.path("etc");
    std::fs::create_dir(&folder).unwrap();
    let installed = folder.join("postern.toml");
    std::fs::copy(&file, &installed).unwrap();
    std::fs::create_dir(home.path("data")).unwrap();
    let etc = [("CONFIGURATION_DIRECTORY", folder.to_str().unwrap())];
    let listed = home.run_with(&["queue", "list"], &etc);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let using = format!("postern: using {}\n", installed.display());
    assert_eq!(listed.err, using);
    let named = home.run_with(&["queue", "list", "--config", &file], &etc);
    assert_eq!((named.code, named.err.as_str()), (Some(0), ""));
    let report = home.run_with(&["doctor"], &etc);
    assert!(
        report.out.contains(&format!(
            "configuration: {} can be used",
            installed.display()
        )),
        "{report:?}"
    );
    // An unusable configuration must not start a development server.
    std::fs::write(&installed, "colour = 1\n").unwrap();
    let served = home.run_with(&[], &etc);
    assert_eq!(served.code, Some(78), "{served:?}");
    assert!(served.err.contains("colour: unknown key"), "{served:?}");
    assert!(!home.path("data/reply-secret").exists());
}

#[test]
fn a_revoked_token_is_inspected_as_revoked() {
    let (home, file) = configured();
    std::fs::create_dir(home.path("data")).unwrap();
    let mint = |thread: &str| {
        let minted = home.run(&["token", "mint", "--thread", thread, "--config", &file]);
        minted.ok().trim_end().to_owned()
    };
    let inspect = |address: &str| home.run(&["token", "inspect", address, "--config", &file]);
    let (uuid, named) = (mint(THREAD), mint("order-7"));
    assert!(inspect(&named).ok().contains("thread: order-7\n"));
    home.run(&["token", "revoke", &uuid, "--config", &file])
        .ok();
    let revoked = inspect(&uuid);
    assert_eq!(revoked.code, Some(65), "{revoked:?}");
    assert_eq!(revoked.err, "postern: token is revoked\n");
    assert_eq!(inspect(&named).code, Some(0));
}

#[test]
fn the_doctor_sees_a_full_disk() {
    let (home, file) = configured();
    std::fs::create_dir(home.path("data")).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let full = format!("{text}[store]\nfree_bytes_min = \"1024TiB\"\n");
    let full = home.write("full.toml", &full);
    let report = home.run(&["doctor", "--config", full.to_str().unwrap()]);
    assert_ne!(report.code, Some(0), "{report:?}");
    let line = report.out.lines().find(|line| line.contains("data folder"));
    let line = line.unwrap();
    assert!(
        line.starts_with("fail") && line.contains("mail is refused"),
        "{line}"
    );
}

#[test]
fn a_check_refuses_what_the_server_refuses() {
    let (home, file) = configured();
    let text = std::fs::read_to_string(&file).unwrap();
    let certs = home.path("certs-of-nobody");
    for is_there in [false, true] {
        if is_there {
            std::fs::create_dir(&certs).unwrap();
        }
        let tls = format!("[tls]\nfolder = \"{}\"\n{text}", certs.display());
        let tls = home.write("tls.toml", &tls);
        let checked = home.run(&["check-config", tls.to_str().unwrap()]);
        let served = home.run(&["serve", "--config", tls.to_str().unwrap()]);
        assert_eq!(
            (checked.code, served.code),
            (Some(78), Some(78)),
            "{checked:?}"
        );
        assert!(
            checked.err.starts_with("postern: tls.folder: "),
            "{checked:?}"
        );
    }
}

#[test]
fn certificates_beside_the_configuration_are_used() {
    let (home, file) = configured();
    let host = home.path("certs/mx.example.com");
    std::fs::create_dir_all(&host).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["mx.example.com".to_owned()]).unwrap();
    std::fs::write(host.join("fullchain.pem"), made.cert.pem()).unwrap();
    std::fs::write(host.join("privkey.pem"), made.signing_key.serialize_pem()).unwrap();
    let report = home.run(&["doctor", "--config", &file]);
    assert!(
        report.out.contains("certificate mx.example.com: "),
        "{report:?}"
    );
    assert!(!report.out.contains("self-signed"), "{report:?}");
}
