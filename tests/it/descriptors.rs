//! More connections than the shell's soft limit on open files.

use std::net::TcpStream;

use crate::postern::{Client, Postern, eventually};
use crate::product::Product;

const THREAD: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";
const MAIL: &str = "From: ann@peer.test\r\nSubject: Re: Your order\r\n\r\nStill here.\r\n";

#[test]
fn many_clients_take_no_descriptor_from_the_store() {
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), "");
    let address = postern.mint(THREAD);
    postern.start_under(&["sh", "-c", "ulimit -Sn 128; exec \"$0\" \"$@\""]);
    let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(("127.0.0.1", postern.smtp)).unwrap())
        .collect();
    let answer = client.mail("ann@peer.test", &address, MAIL).unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
    eventually("the message is told", || product.messages().len() == 1);
    drop(crowd);
    postern.stop();
}
