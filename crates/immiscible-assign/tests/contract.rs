//! What every assigner promises, over the registry, and what the single ones add to it.

use immiscible_assign::{
    ASSIGNERS, AssignError, Assigner, Assignment, Candidates, Cost, Precision, Problem, by_name,
    drop_percent, linear_sum_assignment, mean_distance,
};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Array3, ArrayView2, Axis};
use proptest::prelude::*;

fn normals(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let mut values = vec![0.0; rows * columns];
    Key::new(seed).stream(Stream::NOISE).fill_normals(0, columns, &mut values);
    Array2::from_shape_vec((rows, columns), values).expect("rows * columns values")
}

fn assigner(name: &str) -> Box<dyn Assigner> {
    by_name(name).expect("a name of the registry")
}

/// The assigners whose answer is the optimum.
const OPTIMAL: [&str; 2] = ["exact", "lapjv"];

/// The assigners that share one set of noises.
fn sharing() -> impl Iterator<Item = Box<dyn Assigner>> {
    ASSIGNERS.iter().map(|(_, build)| build()).filter(|assigner| assigner.shares_noise())
}

/// Images with candidates in the form that the assigner takes: `candidates` noises, of all or of each.
struct Batch {
    images: Array2<f32>,
    shared: Option<Array2<f32>>,
    per_image: Array3<f32>,
}

impl Batch {
    fn new(name: &str, images: Array2<f32>, k: usize) -> Self {
        let (b, d) = images.dim();
        let per_image = normals(1, b * k, d).into_shape_with_order((b, k, d)).expect("b * k rows");
        Self { images, shared: assigner(name).shares_noise().then(|| normals(2, b, d)), per_image }
    }

    fn problem(&self, cost: Cost) -> Problem<'_> {
        Problem { cost, ..Problem::new(self.images.view(), self.candidates()) }
    }

    fn candidates(&self) -> Candidates<'_> {
        match &self.shared {
            Some(noise) => Candidates::Shared(noise.view()),
            None => Candidates::PerImage(self.per_image.view()),
        }
    }

    fn poison(&mut self, value: f32) {
        match &mut self.shared {
            Some(noise) => noise[(2, 1)] = value,
            None => self.per_image[(2, 0, 1)] = value,
        }
    }
}

fn identity(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

fn is_permutation(noise_of: &[u32]) -> bool {
    let mut sorted = noise_of.to_vec();
    sorted.sort_unstable();
    sorted == identity(sorted.len())
}

fn sum(cost: ArrayView2<f32>, noise_of: &[u32]) -> f64 {
    noise_of.iter().zip(cost.rows()).map(|(&j, row)| f64::from(row[j as usize])).sum()
}

/// The least cost over all permutations that stay inside their groups, by trying them all.
fn brute_force(cost: ArrayView2<f32>, groups: &[u32]) -> f64 {
    fn extend(cost: ArrayView2<f32>, groups: &[u32], row: usize, taken: &mut [bool]) -> f64 {
        if row == cost.nrows() {
            return 0.0;
        }
        let mut best = f64::INFINITY;
        for column in 0..cost.ncols() {
            if !taken[column] && groups[row] == groups[column] {
                taken[column] = true;
                best = best.min(f64::from(cost[(row, column)]) + extend(cost, groups, row + 1, taken));
                taken[column] = false;
            }
        }
        best
    }
    extend(cost, groups, 0, &mut vec![false; cost.ncols()])
}

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-5 * scale.max(1e-30)
}

#[test]
fn the_registry_is_sorted_and_its_names_are_the_assigners_own() {
    assert!(ASSIGNERS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for (name, build) in ASSIGNERS {
        assert_eq!(build().name(), *name);
        assert_eq!(assigner(name).name(), *name);
    }
    let error = by_name("hungarian").err().expect("there is none");
    assert_eq!(
        error.to_string(),
        "there is no assigner \"hungarian\": the assigners are approximate, blocks, exact, greedy, knn, lapjv, sinkhorn"
    );
}

#[test]
fn empty_and_single_batches_keep_their_noise() {
    for (name, build) in ASSIGNERS {
        for b in [0, 1] {
            let batch = Batch::new(name, normals(0, b, 5), 1);
            for cost in Cost::ALL {
                let assignment = build().assign(&batch.problem(cost)).expect(name);
                assert_eq!(assignment.noise_of, identity(b), "{name}");
                assert_eq!(assignment.cost, assignment.identity_cost, "{name}");
                let gathered = assignment.gather(&batch.candidates()).expect(name);
                assert_eq!(gathered.dim(), (b, 5), "{name}");
            }
        }
    }
}

#[test]
fn costs_are_those_of_the_gathered_noise_and_no_higher_than_the_identity() {
    for (name, build) in ASSIGNERS {
        let batch = Batch::new(name, normals(0, 40, 30), 3);
        for cost in Cost::ALL {
            let assignment = build().assign(&batch.problem(cost)).expect(name);
            let chosen = assignment.gather(&batch.candidates()).expect(name);
            let matrix = cost.matrix(batch.images.view(), chosen.view()).expect("finite");
            let recomputed = f64::from(matrix.diag().sum());
            assert!(close(assignment.cost, recomputed, recomputed.abs()), "{name}, {cost}");
            assert!(assignment.cost < assignment.identity_cost, "{name}, {cost}: {assignment:?}");
        }
    }
}

#[test]
fn a_tie_with_the_identity_is_the_identity() {
    for (name, build) in ASSIGNERS {
        for constant in [0.0, -0.1, 1e30] {
            let cost = Array2::from_elem((9, 9), constant);
            let assignment = build().solve(cost.view(), None).expect(name);
            let first = if assigner(name).shares_noise() { identity(9) } else { vec![0; 9] };
            assert_eq!(assignment.noise_of, first, "{name}");
        }
    }
}

#[test]
fn threads_do_not_matter() {
    for (name, build) in ASSIGNERS {
        let batch = Batch::new(name, normals(0, 300, 64), 4);
        let groups: Vec<u32> = (0..300).map(|i| i % 7).collect();
        for groups in [None, Some(&groups[..])] {
            let run = |threads| {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
                pool.install(|| build().assign(&Problem { groups, ..batch.problem(Cost::L2) }).expect(name))
            };
            assert_eq!(run(1), run(3), "{name}");
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_by_row_and_column() {
    for (name, build) in ASSIGNERS {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for cost in Cost::ALL {
                let mut batch = Batch::new(name, normals(0, 6, 4), 1);
                batch.images[(4, 3)] = value;
                let error = build().assign(&batch.problem(cost)).expect_err(name);
                assert!(
                    matches!(error, AssignError::NonFinite { what: "images", row: 4, column: 3, .. }),
                    "{error}"
                );

                let mut batch = Batch::new(name, normals(0, 6, 4), 1);
                batch.poison(value);
                let error = build().assign(&batch.problem(cost)).expect_err(name);
                assert!(
                    matches!(error, AssignError::NonFinite { what: "candidates", row: 2, column: 1, .. }),
                    "{error}"
                );
                let groups = [1, 1, 0, 0, 0, 1];
                let error = build().assign(&Problem { groups: Some(&groups), ..batch.problem(cost) });
                assert!(
                    matches!(
                        error,
                        Err(AssignError::NonFinite { what: "candidates", row: 2, column: 1, .. })
                    ),
                    "{error:?}"
                );
            }
            let mut matrix = Array2::zeros((3, 3));
            matrix[(1, 2)] = value;
            let error = build().solve(matrix.view(), None).expect_err(name);
            let text = error.to_string();
            assert_eq!(text, format!("cost holds {value} at row 1, column 2: every value must be finite"));
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (images, noise) = (normals(0, 4, 3), normals(1, 5, 3));
    let (narrow, few) = (normals(1, 4, 2), normals(2, 12, 3));
    let per_image = few.view().into_shape_with_order((4, 3, 3)).expect("twelve rows");
    for (name, build) in ASSIGNERS {
        let with = |candidates, groups| {
            build().assign(&Problem { groups, ..Problem::new(images.view(), candidates) })
        };
        if assigner(name).shares_noise() {
            let three = noise.slice_axis(Axis(0), (..3).into());
            let error = with(Candidates::Shared(three), None);
            assert!(
                matches!(error, Err(AssignError::TooFewNoises { images: 4, noises: 3, .. })),
                "{error:?}"
            );
            let error = with(Candidates::Shared(noise.view()), Some(&[0, 0, 1, 1]));
            assert!(matches!(error, Err(AssignError::UnevenPool { images: 4, noises: 5 })), "{error:?}");
            let error = with(Candidates::Shared(narrow.view()), None);
            assert!(matches!(error, Err(AssignError::ShapeMismatch { what: "candidates", .. })), "{error:?}");
            let error = with(Candidates::Shared(noise.slice_axis(Axis(0), (..4).into())), Some(&[0, 1]));
            assert!(matches!(error, Err(AssignError::ShapeMismatch { what: "groups", .. })), "{error:?}");
            let error = with(Candidates::PerImage(per_image), None).expect_err(name);
            assert!(error.to_string().contains("Candidates::Shared, or use \"knn\""), "{error}");
        } else {
            let error = with(Candidates::Shared(noise.view()), None).expect_err(name);
            assert!(error.to_string().contains("Candidates::PerImage"), "{error}");
            let error = with(Candidates::PerImage(per_image.slice_axis(Axis(0), (..3).into())), None);
            assert!(matches!(error, Err(AssignError::ShapeMismatch { .. })), "{error:?}");
            let error = with(Candidates::PerImage(per_image.slice_axis(Axis(1), (..0).into())), None);
            assert!(matches!(error, Err(AssignError::ShapeMismatch { .. })), "{error:?}");
        }
        let mask = Array2::from_elem((4, 2), true);
        let batch = Batch::new(name, normals(0, 4, 3), 2);
        let error = build().assign(&Problem { mask: Some(mask.view()), ..batch.problem(Cost::Dot) });
        assert!(matches!(error, Err(AssignError::ShapeMismatch { what: "mask", .. })), "{error:?}");
    }
}

#[test]
fn dot_and_squared_distance_have_one_answer_whatever_the_scale_and_shift_of_the_images() {
    let (images, noise) = (normals(0, 60, 20), normals(1, 60, 20));
    let shift = normals(3, 1, 20);
    for assigner in sharing() {
        let name = assigner.name();
        if name == "approximate" || name == "sinkhorn" {
            // Where they stop depends on rounding.
            continue;
        }
        let solve = |images: &Array2<f32>, cost| {
            let candidates = Candidates::Shared(noise.view());
            let problem = Problem { cost, ..Problem::new(images.view(), candidates) };
            assigner.assign(&problem).expect("finite").noise_of
        };
        let reference = solve(&images, Cost::Dot);
        assert_ne!(reference, identity(60));
        for other in [&images * 1.0, &images * 7.0, &images + &shift] {
            for cost in [Cost::Dot, Cost::SquaredL2] {
                assert_eq!(reference, solve(&other, cost), "{name}, {cost}");
            }
        }
    }
}

#[test]
fn pools_give_every_image_a_noise_of_its_own_and_bring_it_closer() {
    let (images, pool) = (normals(0, 60, 20), normals(1, 180, 20));
    let groups: Vec<u32> = (0..60).map(|i| i % 4).collect();
    for assigner in sharing() {
        let name = assigner.name();
        let cost = |noises, groups| {
            let candidates = Candidates::Shared(pool.slice_axis(Axis(0), (..noises).into()));
            let found = assigner.assign(&Problem { groups, ..Problem::new(images.view(), candidates) });
            let Assignment { mut noise_of, cost, .. } = found.expect(name);
            if let Some(groups) = groups {
                for (i, &j) in noise_of.iter().enumerate() {
                    assert_eq!(groups[i], groups[j as usize % 60], "{name}");
                }
            }
            noise_of.sort_unstable();
            assert!(noise_of.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {noise_of:?}");
            assert!(noise_of.iter().all(|&j| (j as usize) < noises), "{name}: {noise_of:?}");
            cost
        };
        for groups in [None, Some(&groups[..])] {
            let costs = [60, 120, 180].map(|noises| cost(noises, groups));
            assert!(costs[0] > costs[1] && costs[1] > costs[2], "{name}: {costs:?}");
        }
    }
}

#[test]
fn masked_coordinates_do_not_count() {
    for (name, build) in ASSIGNERS {
        let batch = Batch::new(name, normals(0, 50, 12), 3);
        let mut mask = Array2::from_elem((50, 12), true);
        mask.slice_axis_mut(Axis(1), (8..).into()).fill(false);
        let narrow = batch.images.slice_axis(Axis(1), (..8).into());
        for cost in Cost::ALL {
            let masked = Problem { mask: Some(mask.view()), ..batch.problem(cost) };
            let candidates = match batch.candidates() {
                Candidates::Shared(noise) => Candidates::Shared(noise.slice_axis_move(Axis(1), (..8).into())),
                Candidates::PerImage(noise) => {
                    Candidates::PerImage(noise.slice_axis_move(Axis(2), (..8).into()))
                }
            };
            let without = Problem { cost, ..Problem::new(narrow, candidates) };
            let [masked, without] = [masked, without].map(|problem| build().assign(&problem).expect(name));
            assert!(close(masked.cost, without.cost, without.cost.abs()), "{name}, {cost}");
            assert!(close(masked.identity_cost, without.identity_cost, without.cost.abs()), "{name}, {cost}");
        }
    }
}

#[test]
fn a_mask_is_each_images_own() {
    let (images, noise) = (normals(0, 20, 6), normals(1, 20, 6));
    let mask = Array2::from_shape_fn((20, 6), |(i, d)| (i + d) % 3 != 0);
    for cost in Cost::ALL {
        let problem = Problem {
            cost,
            mask: Some(mask.view()),
            ..Problem::new(images.view(), Candidates::Shared(noise.view()))
        };
        for ((i, j), &found) in problem.cost_matrix().expect("finite").indexed_iter() {
            let terms = (0..6).filter(|&d| mask[(i, d)]).map(|d| (images[(i, d)], noise[(j, d)]));
            let expected: f32 = match cost {
                Cost::Dot => terms.map(|(x, n)| -x * n).sum(),
                Cost::SquaredL2 => terms.map(|(x, n)| (x - n).powi(2)).sum(),
                Cost::L2 => terms.map(|(x, n)| (x - n).powi(2)).sum::<f32>().sqrt(),
                Cost::L1 => terms.map(|(x, n)| (x - n).abs()).sum(),
            };
            assert!((found - expected).abs() < 1e-4, "{cost} [{i}, {j}]: {found}, not {expected}");
        }
    }
}

#[test]
fn eight_bits_lose_next_to_nothing_of_the_gain() {
    // Smooth images, as photographs are: what is lost is lost to the rounding alone.
    let basis = normals(4, 20, 500);
    let (images, noise) = (normals(0, 200, 20).dot(&basis) * 0.1, normals(1, 200, 500));
    for cost in Cost::ALL {
        let full = Problem { cost, ..Problem::new(images.view(), Candidates::Shared(noise.view())) };
        let rounded = Problem { precision: Precision::Int8, ..full };
        let matrix = full.cost_matrix().expect("finite");
        let best = assigner("exact").assign(&full).expect("finite");
        let found = assigner("exact").assign(&rounded).expect("finite");
        let lost = sum(matrix.view(), &found.noise_of) - best.cost;
        let gain = best.identity_cost - best.cost;
        assert!(lost < 1e-3 * gain, "{cost}: {lost} of {gain}");
    }
}

#[test]
fn approximate_answers_prove_their_gap() {
    let batch = Batch::new("approximate", normals(0, 300, 100), 1);
    let gap = |name| assigner(name).assign(&batch.problem(Cost::Dot)).expect("finite").gap_percent();
    assert!(gap("exact").is_some_and(|gap| gap < 1e-6));
    assert!(gap("approximate").is_some_and(|gap| gap > 0.0 && gap <= 1.0), "{:?}", gap("approximate"));
    assert_eq!(gap("blocks"), None);
}

/// The inputs that make auctions and shortest-path solvers slow or wrong.
#[test]
fn hard_matrices_are_solved_exactly() {
    solve_hard_matrices(256);
}

#[test]
fn large_hard_matrices_are_solved_exactly() {
    solve_hard_matrices(400);
}

fn solve_hard_matrices(n: usize) {
    let normal = normals(3, n, n);
    let of = |entry: &dyn Fn(usize, usize) -> f32| Array2::from_shape_fn((n, n), |(i, j)| entry(i, j));
    let hard = [
        ("constant", of(&|_, _| 0.7)),
        ("i * j", of(&|i, j| (i * j) as f32)),
        ("integer ties", normal.mapv(|c| c.round())),
        ("points on a line", of(&|i, j| (normal[(0, i)] - normal[(1, j)]).abs())),
        ("squares on a line", of(&|i, j| (normal[(0, i)] - normal[(1, j)]).powi(2))),
        (
            "points in a plane",
            of(&|i, j| (normal[(0, i)] - normal[(1, j)]).hypot(normal[(2, i)] - normal[(3, j)])),
        ),
        ("16 distinct images", of(&|i, j| normal[(i % 16, j)])),
        ("one image", of(&|_, j| normal[(0, j)])),
        ("a giant image", of(&|i, j| normal[(i, j)] * if i == 7 { 1e4 } else { 1.0 })),
        ("half the images zero", of(&|i, j| if i % 2 == 0 { 0.0 } else { normal[(i, j)] })),
        ("far from zero", &normal + 1e4),
        ("huge range", of(&|i, j| normal[(i, j)].signum() * 10_f32.powf(normal[(j, i)] * 6.0))),
        ("one huge entry", of(&|i, j| if (i, j) == (3, 5) { 1e30 } else { normal[(i, j)] })),
        ("a pool of copies", of(&|i, j| normal[(i, j % 64)])),
    ];
    for (name, cost) in hard {
        let pool = cost.slice_axis(Axis(0), (..n / 3).into()).to_owned();
        for cost in [cost, pool] {
            let wide = cost.mapv(f64::from);
            let scale = largest(&cost);
            let optimum = oracle(&(&wide / scale)) * scale;
            let found = linear_sum_assignment(cost.view()).expect(name);
            let identity: f64 = wide.diag().sum();
            let tolerance = 1e-6 * (identity - optimum) + 1e-12 * scale;
            assert!((found.cost - optimum).abs() <= tolerance, "{name}: {} not {optimum}", found.cost);
            assert!(found.cost - found.lower_bound() <= tolerance, "{name}: {}", found.lower_bound());
        }
    }
}

#[test]
fn the_ends_of_double_precision_are_solved() {
    let normal = normals(5, 20, 20).mapv(f64::from);
    let reference = linear_sum_assignment(normal.view()).expect("finite").columns;
    for scale in [1e307, 1e150, 1e-150, 1e-305] {
        assert_eq!(
            linear_sum_assignment((&normal * scale).view()).expect("finite").columns,
            reference,
            "{scale}"
        );
    }
    // The reciprocal of the smallest number is beyond the largest.
    let smallest = f64::from_bits(1);
    let cost = Array2::from_shape_fn((9, 9), |(i, j)| if (i + 1) % 9 == j { -smallest } else { 0.0 });
    let found = linear_sum_assignment(cost.view()).expect("finite");
    assert_eq!(found.columns, [1, 2, 3, 4, 5, 6, 7, 8, 0]);
    assert_eq!(found.cost, -9.0 * smallest);
}

/// Rounding makes the way back from the columns that nobody needs look shorter than the way there.
#[test]
fn a_pool_of_ties_is_solved() {
    let rows = [
        "332333022131",
        "010222210221",
        "201003322301",
        "123121132112",
        "333303011303",
        "032210120012",
        "033201011312",
    ];
    let cost = Array2::from_shape_fn((7, 12), |(i, j)| f32::from(rows[i].as_bytes()[j] - b'0'));
    let found = linear_sum_assignment(cost.view()).expect("finite");
    assert_eq!(found.cost, oracle(&cost.mapv(f64::from)));
}

#[test]
fn a_larger_batch_brings_the_noise_closer() {
    // Images of length √D/3 with all their energy in every direction alike; the rule of thumb is
    // drop ≈ 100·|x|·g/(D + |x|²) with g = 2.1 at 64 and 2.6 at 256, for images less alike than these.
    let d = 256;
    let drop = |name: &str, b: usize| {
        let batch = Batch::new(name, normals(0, b, d) / 3.0, 1);
        let Candidates::Shared(noise) = batch.candidates() else { panic!("{name} shares its noise") };
        let chosen = assigner(name).assign(&batch.problem(Cost::L2)).expect(name).gather(&batch.candidates());
        let distance = |noise| mean_distance(batch.images.view(), noise).expect("the same shape");
        drop_percent(distance(noise), distance(chosen.expect(name).view()))
    };
    let exact = [16, 64, 256].map(|b| drop("exact", b));
    assert!(exact[0] < exact[1] && exact[1] < exact[2], "{exact:?}");
    assert!((3.0..6.0).contains(&exact[2]), "{exact:?}");
    let greedy = drop("greedy", 256);
    assert!(greedy > 0.9 * exact[2] && greedy <= exact[2] + 1e-9, "greedy {greedy}, exact {exact:?}");
}

/// With the expected largest of four standard normals m, s = √(2D + 4|x|²) and the distance as cost, E|ε|²/D = 1 − 2m/s.
#[test]
fn knn_by_distance_shortens_the_noise_by_what_theory_says_and_by_dot_it_does_not() {
    const LARGEST_OF_FOUR: f64 = 1.029;
    let (b, d) = (256, 3_072);
    let batch = Batch::new("knn", normals(0, b, d) / 2.0, 4);
    let energy = |cost| {
        let assignment = assigner("knn").assign(&batch.problem(cost)).expect("finite");
        let noise = assignment.gather(&batch.candidates()).expect("the same candidates");
        noise.iter().map(|&n| f64::from(n).powi(2)).sum::<f64>() / (b * d) as f64
    };
    let d = d as f64;
    let theory = 1.0 - 2.0 * LARGEST_OF_FOUR / (2.0 * d + 4.0 * d / 4.0).sqrt();
    for cost in [Cost::SquaredL2, Cost::L2] {
        assert!((energy(cost) - theory).abs() < 0.003, "{cost}: {}, not {theory}", energy(cost));
    }
    assert!((0.998..1.004).contains(&energy(Cost::Dot)), "{}", energy(Cost::Dot));
}

/// Matrices of n rows and up to `more` columns more. Small integers are full of ties; the factors reach far down and up.
fn matrices(n: std::ops::RangeInclusive<usize>, more: usize) -> impl Strategy<Value = Array2<f32>> {
    let entry = prop_oneof![(-3..=3_i8).prop_map(f32::from), -1.0..1.0_f32];
    let factor = prop_oneof![Just(1.0_f32), Just(1e-30), Just(1e30)];
    (n, 0..=more, factor).prop_flat_map(move |(n, more, factor)| {
        let m = n + more;
        prop::collection::vec(entry.clone(), n * m)
            .prop_map(move |entries| Array2::from_shape_vec((n, m), entries).expect("n * m entries") * factor)
    })
}

/// The optimum by `lapjv` in double precision, of a matrix filled up with zeros to a square.
fn oracle(cost: &Array2<f64>) -> f64 {
    let n = cost.nrows().max(cost.ncols());
    let entry = |(i, j)| cost.get((i, j)).copied().unwrap_or(0.0);
    let entries: Vec<f64> = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(entry).collect();
    let matrix = lapjv::Matrix::from_shape_vec((n, n), entries).expect("n * n entries");
    let (column_of, _) = lapjv::lapjv(&matrix).expect("a square matrix");
    column_of.iter().enumerate().map(|(i, &j)| entry((i, j))).sum()
}

fn largest(cost: &Array2<f32>) -> f64 {
    cost.iter().fold(0.0, |largest, c| c.abs().max(largest)).into()
}

proptest! {
    #[test]
    fn the_optimum_is_found(cost in matrices(0..=7, 0)) {
        let n = cost.nrows();
        for name in OPTIMAL {
            let Assignment { noise_of, cost: found, .. } = assigner(name).solve(cost.view(), None).expect("finite");
            prop_assert!(is_permutation(&noise_of));
            prop_assert!(close(found, brute_force(cost.view(), &vec![0; n]), largest(&cost)), "{name}");
        }
    }

    #[test]
    fn the_optimum_of_every_group_is_found(cost in matrices(0..=7, 0), groups in prop::array::uniform7(0..3_u32)) {
        let groups = &groups[..cost.nrows()];
        for name in OPTIMAL {
            let assignment = assigner(name).solve(cost.view(), Some(groups)).expect("finite");
            prop_assert!(close(assignment.cost, brute_force(cost.view(), groups), largest(&cost)), "{name}");
        }
    }

    #[test]
    fn the_optimum_out_of_a_pool_is_found(cost in matrices(1..=5, 4)) {
        for name in OPTIMAL {
            let found = assigner(name).solve(cost.view(), None).expect("finite").cost;
            let best = brute_force(cost.view(), &vec![0; cost.ncols()]);
            prop_assert!(close(found, best, largest(&cost)), "{name}: {found}, not {best}");
        }
    }

    #[test]
    fn the_optimum_of_vectors_is_found(n in 2..=6_usize, d in 1..=5_usize, seed in 0..1_000_u64) {
        let (images, noise) = (normals(seed, n, d), normals(seed + 1_000, n, d));
        for cost in Cost::ALL {
            let matrix = cost.matrix(images.view(), noise.view()).expect("finite");
            let best = brute_force(matrix.view(), &vec![0; n]);
            let candidates = Candidates::Shared(noise.view());
            for name in OPTIMAL {
                let problem = Problem { cost, ..Problem::new(images.view(), candidates) };
                let found = assigner(name).assign(&problem).expect("finite");
                prop_assert!(close(found.cost, best, largest(&matrix)), "{name}, {cost}");
            }
        }
    }

    /// The oracle is `lapjv` in double precision, on matrices too large to try all permutations of.
    #[test]
    fn the_exact_assigner_is_optimal_and_its_prices_prove_it(cost in matrices(1..=40, 30), transposed in any::<bool>()) {
        let cost = if transposed { cost.reversed_axes() } else { cost };
        let wide = cost.mapv(f64::from);
        let scale = largest(&cost).max(f64::MIN_POSITIVE);
        let optimum = oracle(&(&wide / scale)) * scale;
        let single = linear_sum_assignment(cost.view()).expect("finite");
        let double = linear_sum_assignment(wide.view()).expect("finite");
        for solution in [single, double] {
            prop_assert!((solution.cost - optimum).abs() <= 1e-9 * scale, "{} not {optimum}", solution.cost);
            prop_assert!((solution.cost - solution.lower_bound()).abs() <= 1e-9 * scale);
            prop_assert_eq!(solution.rows.len(), cost.nrows().min(cost.ncols()));
            prop_assert!(solution.rows.windows(2).all(|pair| pair[0] < pair[1]));
            let mut columns = solution.columns.clone();
            columns.sort_unstable();
            prop_assert!(columns.windows(2).all(|pair| pair[0] < pair[1]));
            // Complementary slackness: no entry is below u + v, and pairs are at it.
            for ((i, j), c) in wide.indexed_iter() {
                prop_assert!(c - solution.u[i] - solution.v[j] >= -1e-12 * scale);
            }
            for (&i, &j) in solution.rows.iter().zip(&solution.columns) {
                let (i, j) = (i as usize, j as usize);
                prop_assert!((wide[(i, j)] - solution.u[i] - solution.v[j]).abs() <= 1e-12 * scale);
            }
        }
    }

    #[test]
    fn one_to_one_assigners_permute_inside_groups_and_never_lose(
        cost in matrices(0..=40, 0),
        groups in prop::collection::vec(0..4_u32, 40),
    ) {
        let n = cost.nrows();
        for assigner in sharing() {
            let name = assigner.name();
            for groups in [None, Some(&groups[..n])] {
                let found = assigner.solve(cost.view(), groups).expect("finite");
                prop_assert!(is_permutation(&found.noise_of), "{name}: {found:?}");
                if let Some(bound) = found.lower_bound {
                    let optimum = by_name("lapjv").expect("registered").solve(cost.view(), groups).expect("finite").cost;
                    prop_assert!(bound <= optimum + 1e-5 * n as f64 * largest(&cost), "{name}: {found:?}");
                }
                prop_assert!(close(found.cost, sum(cost.view(), &found.noise_of), n as f64 * largest(&cost)));
                prop_assert!(close(found.identity_cost, sum(cost.view(), &identity(n)), n as f64 * largest(&cost)));
                prop_assert!(found.cost <= found.identity_cost, "{name}: {found:?}");
                if let Some(groups) = groups {
                    let inside = found.noise_of.iter().enumerate().all(|(i, &j)| groups[i] == groups[j as usize]);
                    prop_assert!(inside, "{name}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn knn_takes_the_first_of_the_cheapest(cost in matrices(1..=9, 3)) {
        let found = assigner("knn").solve(cost.view(), None).expect("finite");
        for (row, &j) in cost.rows().into_iter().zip(&found.noise_of) {
            let cheapest = row.iter().copied().fold(f32::INFINITY, f32::min);
            prop_assert_eq!(row.iter().position(|&c| c == cheapest), Some(j as usize));
        }
    }
}
