//! Answers as the vendors document them.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use bolero::{ValueGenerator, check, one_of, one_value_of, produce};
use fuzz_edits::{edited, edits};

use super::*;

const AWS_TOKEN_TEXT: &str = "AQAEAGhvd2R5LCB0aGlzIGlzIG5vIHRva2VuIG9mIGFueWJvZHkgYXQgYWxs";

fn answer(status: u16, body: impl AsRef<[u8]>) -> Answer {
    let answer = Response::builder().status(status);
    answer.body(body.as_ref().to_vec()).unwrap()
}

/// Asks all of `cloud`; `service` answers method, path and headers (`name: value`).
fn inquire(
    cloud: Cloud,
    service: impl Fn(&str, &str, &[String]) -> Answer,
) -> Result<Vec<String>, Unusable> {
    let mut inquiry = Inquiry::new(cloud);
    while let Some(request) = inquiry.request() {
        let headers = request.headers().iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let path = request.uri().to_string();
        inquiry.take(&service(request.method().as_str(), &path, &headers))?;
    }
    Ok(texts(inquiry))
}

fn texts(inquiry: Inquiry) -> Vec<String> {
    let found = inquiry.finish().into_iter();
    found.map(|ip| ip.to_string()).collect()
}

/// IMDSv2: without the token, nothing.
fn aws(method: &str, path: &str, headers: &[String]) -> Answer {
    if (method, path) == ("PUT", "/latest/api/token") {
        assert_eq!(headers, ["x-aws-ec2-metadata-token-ttl-seconds: 120"]);
        return answer(200, AWS_TOKEN_TEXT);
    }
    let token = format!("x-aws-ec2-metadata-token: {AWS_TOKEN_TEXT}");
    if method != "GET" || headers != [token] {
        return answer(401, "");
    }
    let root = "/latest/meta-data/network/interfaces/macs/";
    match path.strip_prefix(root) {
        Some("") => answer(200, "02:29:96:8f:6a:2d/\n02:29:96:8f:6a:2e/"),
        Some("02:29:96:8f:6a:2d/public-ipv4s") => answer(200, "203.0.113.25\n203.0.113.26"),
        Some("02:29:96:8f:6a:2e/ipv6s") => answer(200, "2600:1f18::7"),
        None if path == "/latest/meta-data/public-ipv4" => answer(200, "203.0.113.25"),
        _ => answer(404, "<html>Not Found</html>"),
    }
}

#[test]
fn aws_is_asked_for_a_token_first_and_for_each_interface() {
    let found = inquire(Cloud::Aws, aws).unwrap();
    assert_eq!(found, ["203.0.113.25", "203.0.113.26", "2600:1f18::7"]);
}

#[test]
fn aws_without_a_token_is_asked_nothing_else() {
    for status in [403, 404, 307, 500] {
        let asked = std::cell::Cell::new(0);
        let refused = inquire(Cloud::Aws, |_, _, _| {
            asked.set(asked.get() + 1);
            answer(status, "203.0.113.25")
        });
        assert_eq!(refused, Err(Unusable::Status(status)));
        assert_eq!(asked.get(), 1);
    }
    for token in ["", "two\nlines", &"x".repeat(LONGEST_TOKEN + 1)] {
        let refused = inquire(Cloud::Aws, |_, _, _| answer(200, token));
        assert_eq!(refused, Err(Unusable::Form));
    }
}

#[test]
fn token_of_aws_is_in_nothing_that_is_shown() {
    let mut inquiry = Inquiry::new(Cloud::Aws);
    inquiry.take(&answer(200, AWS_TOKEN_TEXT)).unwrap();
    let request = inquiry.request().unwrap();
    assert!(request.headers()[AWS_TOKEN] == AWS_TOKEN_TEXT);
    assert!(!format!("{request:?}").contains(AWS_TOKEN_TEXT));
}

#[test]
fn interface_at_aws_that_is_no_mac_address_leads_to_no_path() {
    for text in ["../../../user-data", "02:29:96:8f:6a", "02:29:96:8f:6a:zz/"] {
        let refused = inquire(Cloud::Aws, |method, path, headers| {
            match path.ends_with("/macs/") {
                true => answer(200, text),
                false => aws(method, path, headers),
            }
        });
        assert_eq!(refused, Err(Unusable::Form), "{text}");
    }
    let many: Vec<_> = (0..99).map(|n| format!("02:29:96:8f:6a:{n:02}/")).collect();
    let questions = interfaces(many.join("\n").as_bytes()).unwrap();
    assert_eq!(questions.len(), 2 * MOST_INTERFACES);
}

#[test]
fn google_names_addresses_of_all_interfaces_and_signs() {
    let body = r#"[
        {"accessConfigs":[{"externalIp":"35.225.164.134","type":"ONE_TO_ONE_NAT"}],
         "dnsServers":["169.254.169.254"],"forwardedIps":["203.0.113.99"],"gateway":"10.128.0.1",
         "ip":"10.128.0.70","ipAliases":["10.24.3.0/24"],"ipv6s":["2600:1900:4000:1::"],
         "mac":"42:01:0a:80:00:46","mtu":1460,"network":"projects/1/networks/default"},
        {"accessConfigs":[{"externalIp":"","type":"ONE_TO_ONE_NAT"}],"ip":"192.168.1.2",
         "ipv6s":["fd20:a:b::1"]}]"#;
    let service = |signed: bool| {
        move |method: &str, path: &str, headers: &[String]| {
            let wanted = "/computeMetadata/v1/instance/network-interfaces/?recursive=true";
            assert_eq!((method, path), ("GET", wanted));
            assert_eq!(headers, ["metadata-flavor: Google"]);
            let mut answer = answer(200, body);
            if signed {
                answer.headers_mut().insert(FLAVOR, FLAVOR_GOOGLE);
            }
            answer
        }
    };
    let found = inquire(Cloud::Google, service(true)).unwrap();
    assert_eq!(found, ["35.225.164.134", "2600:1900:4000:1::"]);
    assert_eq!(
        inquire(Cloud::Google, service(false)),
        Err(Unusable::Flavor)
    );
}

#[test]
fn azure_addresses_are_of_the_interface_or_of_the_load_balancer() {
    let network = |public: &str| {
        format!(
            r#"{{"interface":[{{"ipv4":{{"ipAddress":[{{"privateIpAddress":"10.144.133.132",
            "publicIpAddress":"{public}"}}],"subnet":[{{"address":"10.144.133.128","prefix":"26"}}]}},
            "ipv6":{{"ipAddress":[]}},"macAddress":"0011AAFFBB22"}}]}}"#
        )
    };
    let balancer = r#"{"loadbalancer":{
        "publicIpAddresses":[{"frontendIpAddress":"51.0.0.1","privateIpAddress":"10.1.0.4"}],
        "inboundRules":[{"frontendIpAddress":"50.0.0.1","protocol":"tcp","frontendPort":80,
        "backendPort":443,"privateIpAddress":"10.1.0.4"}],
        "outboundRules":[{"frontendIpAddress":"50.0.0.1","privateIpAddress":"10.1.0.4"}]}}"#;
    let ask = |public: &str, balanced: bool| {
        inquire(Cloud::Azure, |method, path, headers| {
            assert_eq!(
                (method, headers),
                ("GET", &["metadata: true".to_owned()][..])
            );
            match path {
                "/metadata/instance/network?api-version=2021-02-01" => answer(200, network(public)),
                "/metadata/loadbalancer?api-version=2020-10-01" if balanced => {
                    answer(200, balancer)
                }
                "/metadata/loadbalancer?api-version=2020-10-01" => {
                    answer(404, r#"{"error":"No load balancer metadata is found."}"#)
                }
                _ => panic!("{path}"),
            }
        })
        .unwrap()
    };
    assert_eq!(ask("104.46.124.81", false), ["104.46.124.81"]);
    assert_eq!(ask("", true), ["51.0.0.1"]);
    assert_eq!(ask("", false), [""; 0]);
}

#[test]
fn oracle_names_ipv6_addresses_only() {
    let body = r#"[
        {"ipv6Addresses":["2603:c020:400d:5dbb:e94a:a85d:26e3:e0d4"],
         "ipv6VirtualRouterIp":"fe80::200:17ff:fe40:8972","macAddr":"02:00:17:0D:6B:BE",
         "privateIp":"10.0.0.183","vlanTag":929,"vnicId":"ocid1.vnic.oc1.iad.a"},
        {"privateIp":"10.0.4.5","virtualRouterIp":"10.0.4.1","vlanTag":1,"nicIndex":0}]"#;
    let found = inquire(Cloud::Oracle, |method, path, headers| {
        assert_eq!((method, path), ("GET", "/opc/v2/vnics/"));
        assert_eq!(headers, ["authorization: Bearer Oracle"]);
        answer(200, body)
    });
    assert_eq!(found.unwrap(), ["2603:c020:400d:5dbb:e94a:a85d:26e3:e0d4"]);
}

#[test]
fn hetzner_and_openstack_name_one_ipv4_address_or_none() {
    for (cloud, wanted) in [
        (Cloud::Hetzner, "/hetzner/v1/metadata/public-ipv4"),
        (Cloud::OpenStack, "/latest/meta-data/public-ipv4"),
    ] {
        let ask = |status: u16, body: &str| {
            inquire(cloud, |method, path, headers| {
                assert_eq!((method, path, headers.len()), ("GET", wanted, 0));
                answer(status, body)
            })
        };
        assert_eq!(ask(200, "203.0.113.7\n").unwrap(), ["203.0.113.7"]);
        assert_eq!(ask(200, "").unwrap(), [""; 0]);
        assert_eq!(ask(404, "not found").unwrap(), [""; 0]);
        assert_eq!(ask(503, ""), Err(Unusable::Status(503)));
    }
}

#[test]
fn digitalocean_names_the_public_interface_and_reserved_addresses() {
    let found = inquire(Cloud::DigitalOcean, |_, path, headers| {
        assert!(headers.is_empty());
        match path {
            "/metadata/v1/interfaces/public/0/ipv4/address" => answer(200, "203.0.113.7"),
            "/metadata/v1/interfaces/public/0/ipv6/address" => answer(200, "2001:db8::7"),
            "/metadata/v1/reserved_ip/ipv4/ip_address" => answer(200, "198.51.100.9"),
            _ => answer(404, "not found"),
        }
    });
    assert_eq!(
        found.unwrap(),
        ["203.0.113.7", "2001:db8::7", "198.51.100.9"]
    );
}

#[test]
fn redirect_is_an_answer_of_no_use() {
    for status in [301, 302, 307, 308] {
        let refused = inquire(Cloud::Hetzner, |_, _, _| answer(status, "203.0.113.7"));
        assert_eq!(refused, Err(Unusable::Status(status)));
    }
}

#[test]
fn anything_but_addresses_is_refused_and_private_ones_are_left_out() {
    let ask = |body: &str| inquire(Cloud::Hetzner, |_, _, _| answer(200, body));
    for text in [
        "<html>",
        "203.0.113.7:40000",
        "203.0.113.007",
        "203.0.113.0/24",
        "fe80::1%eth0",
        "relay.example.net",
        "203.0.113.7\nnot found",
    ] {
        assert_eq!(ask(text), Err(Unusable::Form), "{text}");
    }
    let private = "10.0.0.1\n100.64.0.1\n169.254.1.1\nfd00::1\n127.0.0.1\n::ffff:1.1.1.1";
    assert_eq!(ask(private).unwrap(), [""; 0]);
}

#[test]
fn any_answer_is_taken_or_refused_without_harm() {
    let clouds = [
        Cloud::Aws,
        Cloud::Google,
        Cloud::Azure,
        Cloud::Oracle,
        Cloud::Hetzner,
        Cloud::DigitalOcean,
        Cloud::OpenStack,
    ];
    let texts = [
        "203.0.113.7\n2001:db8::7",
        "{\"publicIp\":\"203.0.113.7\"}",
        "",
    ];
    let near = (one_value_of(texts), edits());
    let near = near.map_gen(|(text, edits)| edited(text.as_bytes(), &edits));
    let body = one_of((near, produce::<Vec<u8>>()));
    let check = check!().with_iterations(1_000);
    let check = check.with_generator((100..600_u16, body));
    check.for_each(|(status, body)| {
        for cloud in clouds {
            let mut inquiry = Inquiry::new(cloud);
            let mut answer = answer(*status, body);
            answer.headers_mut().insert(FLAVOR, FLAVOR_GOOGLE);
            while inquiry.request().is_some() && inquiry.take(&answer).is_ok() {}
            assert!(inquiry.finish().into_iter().all(is_global));
        }
    });
}
