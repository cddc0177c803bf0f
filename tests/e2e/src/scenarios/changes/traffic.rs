//! Steady traffic between two clients, and the silences in it.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use rig::deployment::{Deployment, ProbeHandle};

/// UDP port of both clients.
const PORT: u16 = 7_010;

/// Bytes of datagrams that both clients together send in a second, at least.
pub(super) const BYTES_A_SECOND: u64 = 2 * 5 * (64 + 1_200) * 9 / 10;

/// Datagrams of two lengths, ten a second in each direction.
pub(super) struct Traffic {
    senders: Vec<ProbeHandle>,
    directions: Vec<Direction>,
}

/// The arrivals at a client.
struct Direction {
    name: String,
    record: PathBuf,
}

/// The arrival of a datagram.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    /// Time in milliseconds since 1970.
    at: u64,
    number: u64,
}

/// The time now, in milliseconds since 1970.
pub(super) fn millis() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

impl Traffic {
    /// Lets c1 and c2 send to each other.
    pub(super) fn start(deployment: &Deployment<'_>) -> Result<Self> {
        let clients = [deployment.client("c1")?, deployment.client("c2")?];
        let scratch = deployment.rig.scratch("changes")?;
        let mut senders = Vec::new();
        let mut directions = Vec::new();
        for (client, peer) in [(clients[0], clients[1]), (clients[1], clients[0])] {
            let to = SocketAddr::new(peer.addresses()?[0].parse()?, PORT).to_string();
            let (here, there) = (client.machine.name, peer.machine.name);
            let record = scratch.join(format!("at-{here}"));
            let file = record.display().to_string();
            senders.push(deployment.probe(client, &["steady", &PORT.to_string(), &to, &file])?);
            directions.push(Direction {
                name: format!("{there} to {here}"),
                record,
            });
        }
        Ok(Self {
            senders,
            directions,
        })
    }

    /// A direction in which nothing of one length has arrived for `longest`, if there is one.
    pub(super) fn silent(&self, longest: Duration) -> Result<Option<String>> {
        let now = millis()?;
        for direction in &self.directions {
            for (kind, arrivals) in direction.read()? {
                let Some(last) = arrivals.last() else {
                    continue;
                };
                if now.saturating_sub(last.at) > longest.as_millis() as u64 {
                    let name = &direction.name;
                    return Ok(Some(format!(
                        "{kind} datagrams from {name} stay away for {} ms, since {}",
                        now - last.at,
                        last.at
                    )));
                }
            }
        }
        Ok(None)
    }

    /// The longest silence in any direction that ended, or lasts, after a moment in milliseconds since 1970;
    /// with what it lasted before.
    pub(super) fn longest_until_after(&self, from: u64) -> Result<Duration> {
        self.longest(from, 0)
    }

    /// The longest silence in any direction since a moment in milliseconds since 1970.
    pub(super) fn longest_since(&self, from: u64) -> Result<Duration> {
        self.longest(from, from)
    }

    fn longest(&self, from: u64, earliest: u64) -> Result<Duration> {
        let now = millis()?;
        let mut longest = 0;
        for direction in &self.directions {
            for (_, arrivals) in direction.read()? {
                longest = longest.max(longest_silence(&arrivals, from, earliest, now));
            }
        }
        Ok(Duration::from_millis(longest))
    }

    /// Ends the senders.
    pub(super) fn finish(self) -> Result<()> {
        for sender in self.senders {
            sender.finish()?;
        }
        Ok(())
    }
}

impl Direction {
    /// Arrivals until now, those of short datagrams and those of long ones.
    fn read(&self) -> Result<[(&'static str, Vec<Arrival>); 2]> {
        let text = fs::read_to_string(&self.record).context("there is no record")?;
        // The last line may not be whole.
        let lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        let arrivals = lines.map(|line| {
            let (at, number) = line.trim_end().split_once(' ').context("no number")?;
            Ok(Arrival {
                at: at.parse()?,
                number: number.parse()?,
            })
        });
        let arrivals = arrivals.collect::<Result<Vec<_>>>()?;
        let (short, long) = arrivals.into_iter().partition(|a| a.number % 2 == 0);
        Ok([("short", short), ("long", long)])
    }
}

/// The longest time between two arrivals, or after the last one, that ended at `from` or later. Time
/// before `earliest` does not count.
fn longest_silence(arrivals: &[Arrival], from: u64, earliest: u64, now: u64) -> u64 {
    let ends = arrivals.iter().skip(1).map(|a| a.at).chain([now]);
    let starts = arrivals.iter().map(|a| a.at);
    let silences = starts.zip(ends).filter(|(_, end)| *end >= from);
    silences
        .map(|(start, end)| end.saturating_sub(start.max(earliest)))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_that_end_after_a_moment_count() {
        let arrivals: Vec<_> = [100, 900, 1_000, 1_500]
            .into_iter()
            .map(|at| Arrival { at, number: 0 })
            .collect();
        assert_eq!(longest_silence(&arrivals, 0, 0, 1_600), 800);
        assert_eq!(longest_silence(&arrivals, 900, 0, 1_600), 800);
        assert_eq!(longest_silence(&arrivals, 901, 0, 1_600), 500);
        assert_eq!(longest_silence(&arrivals, 901, 0, 9_000), 7_500);
        assert_eq!(longest_silence(&arrivals, 800, 800, 1_600), 500);
        assert_eq!(longest_silence(&[], 0, 0, 9_000), 0);
    }
}
