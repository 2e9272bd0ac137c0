//! `hlx bench-gemm`: how fast the matrix product is, and how far from the true one.

use serde_json::json;

use super::backend::Backend;
use super::measure::error::ProductError;
use super::measure::peaks::is_gpu;
use super::measure::product::{Product, ProductTime};
use super::tune::Tuner;
use super::{print, print_json};
use crate::cli::BenchGemmArgs;
use crate::error::Result;
use crate::report::say;

/// The table's shapes: a small one, squares, and the products of GPT-2's layers for 2,048 positions.
const TABLE: [[usize; 3]; 7] = [
    [512, 256, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [2048, 768, 2304],
    [2048, 768, 768],
    [2048, 768, 3072],
    [2048, 3072, 768],
];

/// The same for a GPU: larger squares, and 16,384 positions.
const GPU_TABLE: [[usize; 3]; 9] = [
    [512, 256, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [4096, 4096, 4096],
    [8192, 8192, 8192],
    [16384, 768, 2304],
    [16384, 768, 768],
    [16384, 768, 3072],
    [16384, 3072, 768],
];

/// One line of the table.
struct Measured {
    product: Product,
    time: ProductTime,
    error: ProductError,
    checked: usize,
}

pub fn run(args: &BenchGemmArgs) -> Result<()> {
    let chosen = Backend::open(&args.device, args.precision.unwrap_or_default())?;
    let backend = &chosen.backend;
    let shapes = match args.sizes.as_deref() {
        Some(&[m, k, n]) => vec![[m, k, n].map(|size| size as usize)],
        _ if is_gpu(backend) => GPU_TABLE.to_vec(),
        _ => TABLE.to_vec(),
    };
    let precisions = args.precision.map_or_else(|| backend.offered(), |one| vec![one]);
    let layout = args.layout;
    let product = |sizes, precision| Product { precision, sizes, layout };
    let products: Vec<Product> =
        shapes.iter().flat_map(|&sizes| precisions.iter().map(move |&p| product(sizes, p))).collect();
    products.iter().try_for_each(|product| product.check_fit(backend))?;
    if !args.json {
        say(format_args!("on {chosen}"));
        print(&header())?;
    }
    let mut tuner = Tuner::new(!args.no_tune);
    let mut rows = Vec::new();
    for product in products {
        let measured = measure(backend, product, &mut tuner)?;
        if !args.json {
            print(&measured.line())?;
        }
        rows.push(measured.json(backend));
    }
    if args.json { print_json(&rows.into()) } else { Ok(()) }
}

fn measure(backend: &Backend, product: Product, tuner: &mut Tuner) -> Result<Measured> {
    let mut loaded = product.load(backend, tuner)?;
    let time = loaded.time()?;
    let (error, checked) = loaded.error()?;
    Ok(Measured { product, time, error, checked })
}

fn header() -> String {
    format!(
        "{:<9} {:>6} {:>6} {:>6}  {:<6} {:>10} {:>10} {:>11} {:>19} {:>15}\n",
        "precision",
        "m",
        "k",
        "n",
        "layout",
        "ms",
        "GFLOP/s",
        "packing ms",
        "max relative error",
        "Frobenius error"
    )
}

impl Measured {
    fn gflops(&self) -> f64 {
        self.product.flops() / (self.time.ms * 1e6)
    }

    fn line(&self) -> String {
        let [m, k, n] = self.product.sizes;
        format!(
            "{:<9} {m:>6} {k:>6} {n:>6}  {:<6} {:>10.4} {:>10.1} {:>11} {:>19.2e} {:>15.2e}\n",
            self.product.precision.name(),
            self.product.layout.name(),
            self.time.ms,
            self.gflops(),
            self.time.packing_ms.map_or("-".into(), |ms| format!("{ms:.4}")),
            self.error.max_relative,
            self.error.frobenius,
        )
    }

    fn json(&self, backend: &Backend) -> serde_json::Value {
        let [m, k, n] = self.product.sizes;
        json!({
            "device": backend.name(),
            "precision": self.product.precision.name(),
            "layout": self.product.layout.name(),
            "m": m,
            "k": k,
            "n": n,
            "ms": self.time.ms,
            "fastest_ms": self.time.fastest_ms,
            "packing_ms": self.time.packing_ms,
            "batches": self.time.batches,
            "products_per_batch": self.time.calls,
            "operand_sets": self.time.sets,
            "gflops": self.gflops(),
            "max_relative_error": self.error.max_relative,
            "frobenius_error": self.error.frobenius,
            "checked_elements": self.checked,
        })
    }
}
