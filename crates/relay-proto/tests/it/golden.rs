//! The bytes of Tailscale's own packages, read and written again.
//!
//! `tests/golden/vectors.json` is the output of `tests/rig/tools/tailnet/vectors`, a program on
//! Go packages `disco`, `net/packet` and `types/key`; no byte in it comes from this crate.

use crypto_box::{PublicKey, SalsaBox, SecretKey};
use relay_proto::{
    DiscoPublic, DiscoSecret, Pair, Vni,
    disco::{BindCommon, Endpoint, Frame, Generation, Message, seal},
    geneve::Header,
};
use serde_json::Value;

#[test]
fn keys_are_derived_and_printed_alike() {
    for key in &list("keys") {
        let secret = DiscoSecret::from_bytes(array(&key["private"]));
        let public = public(&key["public"]);
        assert_eq!(secret.public(), public);
        assert_eq!(public.to_string(), text(&key["short"]));
    }
}

#[test]
fn pairs_are_sorted_alike() {
    for pair in &list("pairs") {
        let [a, b] = keys(&pair["given"]);
        assert_eq!(Pair::new(a, b).keys(), keys(&pair["sorted"]));
    }
}

#[test]
fn every_message_is_read_and_written_alike() {
    let mut kinds = [0; 16];
    for vector in &list("messages") {
        let (message, plaintext) = (message(vector), bytes(&vector["plaintext"]));
        let name = format!("{} {}", text(&vector["type"]), text(&vector["name"]));
        assert_eq!(message.marshal(), plaintext, "{name}");
        assert_eq!(Message::parse(&plaintext), Some(message), "{name}");
        kinds[usize::from(plaintext[0])] += 1;
    }
    assert!(kinds[0x04..=0x09].iter().all(|count| *count >= 4));
}

#[test]
fn odd_plaintexts_are_taken_or_refused_alike() {
    for vector in &list("parses") {
        let parsed = Message::parse(&bytes(&vector["plaintext"]));
        let expected = match (flag(&vector["refused"]), flag(&vector["empty"])) {
            // What Go takes for empty has no use; docs/wire.md section 3.
            (true, _) | (_, true) => None,
            (false, false) => Some(bytes(&vector["again"])),
        };
        let again = parsed.map(|message| message.marshal());
        assert_eq!(again, expected, "{}", text(&vector["name"]));
    }
}

#[test]
fn every_frame_is_opened_and_sealed_alike() {
    for vector in &list("frames") {
        let (from, to) = (key_pair(&vector["from"]), key_pair(&vector["to"]));
        let (frame, plaintext) = (bytes(&vector["frame"]), bytes(&vector["plaintext"]));
        let name = text(&vector["message"]);

        let for_sender = shared(&from, &to);
        let sealed = seal(&for_sender, from.1, array(&vector["nonce"]), &plaintext);
        assert_eq!(sealed, frame, "{name}");

        let parsed = Frame::parse(&frame).expect("a frame");
        assert_eq!(parsed.sender, from.1, "{name}");
        let opened = parsed.open(&shared(&to, &from));
        assert_eq!(opened, Message::parse(&plaintext), "{name}");
        assert!(opened.is_some(), "{name}");
    }
}

#[test]
fn geneve_headers_are_read_and_written_alike() {
    for vector in &list("geneve") {
        let encoded: [u8; 8] = array(&vector["header"]);
        let expected = Vni::new(number(&vector["vni"])).map(|vni| Header {
            control: flag(&vector["control"]),
            protocol: number(&vector["protocol"]),
            vni,
        });
        // Other versions and VNI 0 are refused here only; docs/wire.md section 9.
        let expected = expected.filter(|_| number::<u8>(&vector["version"]) == 0);
        assert_eq!(Header::decode(&encoded), expected, "{encoded:02x?}");
        if flag(&vector["written"]) {
            assert_eq!(expected.map(|header| header.encode()), Some(encoded));
        }
    }
}

fn message(vector: &Value) -> Message {
    let common = || {
        let bind = &vector["bind"];
        BindCommon {
            vni: number(&bind["vni"]),
            generation: Generation(number(&bind["generation"])),
            remote: public(&bind["remote"]),
            challenge: array(&bind["challenge"]),
        }
    };
    match text(&vector["type"]) {
        "bind" => Message::Bind(common()),
        "challenge" => Message::Challenge(common()),
        "answer" => Message::Answer(common()),
        "call-me-maybe-via" => Message::CallMeMaybeVia(endpoint(&vector["endpoint"])),
        "allocate-request" => Message::AllocateRequest {
            clients: keys(&vector["request"]["clients"]),
            generation: Generation(number(&vector["request"]["generation"])),
        },
        "allocate-response" => Message::AllocateResponse {
            generation: Generation(number(&vector["response_generation"])),
            endpoint: endpoint(&vector["endpoint"]),
        },
        other => panic!("no such message: {other}"),
    }
}

fn endpoint(fields: &Value) -> Endpoint {
    let [a, b] = keys(&fields["clients"]);
    let addresses = fields["addresses"].as_array().expect("a list");
    Endpoint {
        server: public(&fields["server"]),
        clients: Pair::new(a, b),
        lamport: number(&fields["lamport"]),
        vni: number(&fields["vni"]),
        bind_lifetime_ns: number(&fields["bind_lifetime_ns"]),
        steady_lifetime_ns: number(&fields["steady_lifetime_ns"]),
        addresses: addresses
            .iter()
            .map(|address| text(address).parse().expect("an address and port"))
            .collect(),
    }
}

type KeyPair = (SecretKey, DiscoPublic);

fn key_pair(name: &Value) -> KeyPair {
    let keys = list("keys");
    let key = keys.iter().find(|key| key["name"] == *name);
    let key = key.expect("a key of this name");
    (
        SecretKey::from(array::<32>(&key["private"])),
        public(&key["public"]),
    )
}

fn shared((secret, _): &KeyPair, (_, other): &KeyPair) -> SalsaBox {
    SalsaBox::new(&PublicKey::from(other.0), secret)
}

fn list(name: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("../golden/vectors.json")).unwrap();
    let list = vectors[name].as_array().expect("a list").clone();
    assert!(!list.is_empty());
    list
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn flag(value: &Value) -> bool {
    value.as_bool().expect("true or false")
}

fn number<N: TryFrom<u64>>(value: &Value) -> N {
    let number = value.as_u64().expect("a number");
    N::try_from(number).ok().expect("in range")
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value).as_bytes().chunks_exact(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("the right length")
}

fn public(value: &Value) -> DiscoPublic {
    DiscoPublic(array(value))
}

fn keys(value: &Value) -> [DiscoPublic; 2] {
    [public(&value[0]), public(&value[1])]
}
