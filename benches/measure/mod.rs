//! What the benchmarks of the way out share: figures of a measurement, the table of their medians, the raw disk, and the
//! store by itself under concurrent publishers.

pub mod store;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a message's payload.
pub const PAYLOAD: usize = 300;
/// About what the store writes for it: payload, the rest of the message, frame, key.
pub const RECORD: usize = 480;
/// Concurrent publishers, each with one message out.
pub const PUBLISHERS: [usize; 4] = [1, 16, 64, 256];

/// One measurement.
#[derive(Clone, Copy)]
pub struct Figure {
    /// Records made durable per second.
    rate: f64,
    /// Milliseconds until a record, or a raw batch, was durable.
    p50: f64,
    p99: f64,
}

impl Figure {
    /// So many records in this time, and how long each wait for one was.
    pub fn new(records: usize, took: Duration, mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let last = waits.len().saturating_sub(1);
        let at = |percent: usize| waits.get(last * percent / 100).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3);
        Figure { rate: records as f64 / took.as_secs_f64(), p50: at(50), p99: at(99) }
    }
}

/// Figures by name, of several rounds.
#[derive(Default)]
pub struct Table {
    rows: Vec<(String, Vec<Figure>)>,
}

impl Table {
    /// Takes down a figure of this round.
    pub fn note(&mut self, name: &str, figure: Figure) {
        match self.rows.iter_mut().find(|(known, _)| known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.rows.push((name.to_owned(), vec![figure])),
        }
    }

    /// Prints the median round of each, the median of its ratios to the last raw one above it in the same round, and the
    /// span of its rounds.
    pub fn print(&self) {
        let heads = ["records/s", "p50 ms", "p99 ms", "to raw"];
        println!("{:<34} {:>10} {:>8} {:>8} {:>7}   rounds", "", heads[0], heads[1], heads[2], heads[3]);
        let mut raw: &[Figure] = &[];
        for (name, figures) in &self.rows {
            let of = |what: fn(&Figure) -> f64| median(figures.iter().map(what).collect());
            let ratio = if name.starts_with("raw") {
                raw = figures;
                String::new()
            } else {
                let ratios = figures.iter().zip(raw).map(|(figure, raw)| figure.rate / raw.rate);
                format!("{:.2}", median(ratios.collect()))
            };
            let rates = figures.iter().map(|figure| figure.rate);
            let (least, most) = (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max));
            println!(
                "{name:<34} {:>10.0} {:>8.3} {:>8.3} {ratio:>7}   {least:.0} to {most:.0}",
                of(|figure| figure.rate),
                of(|figure| figure.p50),
                of(|figure| figure.p99)
            );
        }
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The raw disk: appends `batch` records of `size` bytes per fdatasync.
pub fn raw(directory: &Path, size: usize, batch: usize, time: Duration) -> Figure {
    let path = directory.join("raw");
    let mut file = File::create(&path).unwrap();
    let bytes = vec![b'x'; size * batch];
    let mut waits = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let at = Instant::now();
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        waits.push(at.elapsed());
    }
    let figure = Figure::new(waits.len() * batch, began.elapsed(), waits);
    std::fs::remove_file(path).unwrap();
    figure
}
