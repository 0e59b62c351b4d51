//! The comparison on the embedded store: this service, a bare sketch of its ledger, and bare HTTP.

use std::path::Path;
use std::process::Command;

use super::{Figures, Options, issued, median, provision};
use crate::service::Service;
use crate::store::{Engine, Store};

/// As long as our service's keys, so that all are asked in as many bytes.
const KEY_LENGTH: usize = 68;

/// What is measured, in turn.
#[derive(Clone, Copy)]
enum Measured {
    Ours,
    Sketch,
    Http,
}

/// Measures and prints.
pub async fn compare(
    options: &Options,
    binary: &Path,
    within: Option<&Path>,
) -> anyhow::Result<()> {
    const ALL: [Measured; 3] = [Measured::Ours, Measured::Sketch, Measured::Http];
    let mut figures = vec![ALL.map(|_| Vec::new()); options.connections.len()];
    for round in 1..=options.rounds.max(1) {
        eprintln!("round {round} of {}", options.rounds);
        for (row, connections) in options.connections.iter().enumerate() {
            for measured in ALL {
                let store = Store::empty(Engine::Embedded, within).await?;
                let (service, key) = start(measured, binary, store).await?;
                let issued = issued(&service, &key, *connections, options.seconds).await?;
                figures[row][measured as usize].push(issued);
            }
        }
    }
    println!(
        "Issuing cards on the embedded store, each commit synced, {} cores shared by clients and \
         services; medians of {} rounds\n",
        std::thread::available_parallelism()?,
        options.rounds
    );
    println!(
        "| connections | cards/s | bare sketch | ratio | bare HTTP | ratio | CPU a card | of the \
         sketch | of bare HTTP |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (connections, row) in options.connections.iter().zip(&figures) {
        let [ours, sketch, http] = row.each_ref().map(|figures| medians(figures));
        println!(
            "| {connections} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} µs | {:.0} µs | {:.0} µs |",
            ours.per_second,
            sketch.per_second,
            ours.per_second / sketch.per_second,
            http.per_second,
            ours.per_second / http.per_second,
            ours.cpu_micros,
            sketch.cpu_micros,
            http.cpu_micros,
        );
    }
    Ok(())
}

/// Starts what is to be measured; the key to ask it with.
async fn start(
    measured: Measured,
    binary: &Path,
    store: Store,
) -> anyhow::Result<(Service, String)> {
    let mut this = Command::new(std::env::current_exe()?);
    let bare = match measured {
        Measured::Ours => {
            let service = Service::start(binary, store)?;
            let key = provision(&service).await?;
            return Ok((service, key));
        }
        Measured::Sketch => this.arg("sketch"),
        Measured::Http => this.args(["sketch", "--store-nothing"]),
    };
    Ok((Service::spawn(bare, store)?, "0".repeat(KEY_LENGTH)))
}

fn medians(figures: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(figures.iter().map(figure).collect());
    Figures {
        per_second: of(|figures| figures.per_second),
        cpu_micros: of(|figures| figures.cpu_micros),
    }
}
