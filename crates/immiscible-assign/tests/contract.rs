//! What every assigner promises, over the registry, and what the single ones add to it.

use immiscible_assign::{
    ASSIGNERS, AssignError, Assigner, Assignment, Candidates, Cost, Problem, by_name, drop_percent,
    mean_distance,
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
        Problem { images: self.images.view(), candidates: self.candidates(), cost, groups: None }
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
    assert_eq!(error.to_string(), "there is no assigner \"hungarian\": the assigners are greedy, knn, lapjv");
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
            build().assign(&Problem { images: images.view(), candidates, cost: Cost::Dot, groups })
        };
        if assigner(name).shares_noise() {
            let error = with(Candidates::Shared(noise.view()), None);
            assert!(matches!(error, Err(AssignError::NotSquare { images: 4, noises: 5, .. })), "{error:?}");
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
    }
}

#[test]
fn dot_and_squared_distance_have_one_answer_whatever_the_scale_and_shift_of_the_images() {
    let (images, noise) = (normals(0, 60, 20), normals(1, 60, 20));
    let shift = normals(3, 1, 20);
    for assigner in sharing() {
        let name = assigner.name();
        let solve = |images: &Array2<f32>, cost| {
            let candidates = Candidates::Shared(noise.view());
            let problem = Problem { images: images.view(), candidates, cost, groups: None };
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
    let exact = [16, 64, 256].map(|b| drop("lapjv", b));
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

/// Small integers are full of ties; the factors reach far down and up.
fn matrices(n: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Array2<f32>> {
    let entry = prop_oneof![(-3..=3_i8).prop_map(f32::from), -1.0..1.0_f32];
    let factor = prop_oneof![Just(1.0_f32), Just(1e-30), Just(1e30)];
    (n, factor).prop_flat_map(move |(n, factor)| {
        prop::collection::vec(entry.clone(), n * n)
            .prop_map(move |entries| Array2::from_shape_vec((n, n), entries).expect("n * n entries") * factor)
    })
}

fn largest(cost: &Array2<f32>) -> f64 {
    cost.iter().fold(0.0, |largest, c| c.abs().max(largest)).into()
}

proptest! {
    #[test]
    fn lapjv_finds_the_optimum(cost in matrices(0..=7)) {
        let n = cost.nrows();
        let Assignment { noise_of, cost: found, .. } = assigner("lapjv").solve(cost.view(), None).expect("finite");
        prop_assert!(is_permutation(&noise_of));
        prop_assert!(close(found, brute_force(cost.view(), &vec![0; n]), largest(&cost)));
    }

    #[test]
    fn lapjv_finds_the_optimum_of_every_group(cost in matrices(0..=7), groups in prop::array::uniform7(0..3_u32)) {
        let groups = &groups[..cost.nrows()];
        let assignment = assigner("lapjv").solve(cost.view(), Some(groups)).expect("finite");
        prop_assert!(close(assignment.cost, brute_force(cost.view(), groups), largest(&cost)));
    }

    #[test]
    fn lapjv_finds_the_optimum_of_vectors(n in 2..=6_usize, d in 1..=5_usize, seed in 0..1_000_u64) {
        let (images, noise) = (normals(seed, n, d), normals(seed + 1_000, n, d));
        for cost in Cost::ALL {
            let candidates = Candidates::Shared(noise.view());
            let problem = Problem { images: images.view(), candidates, cost, groups: None };
            let found = assigner("lapjv").assign(&problem).expect("finite");
            let matrix = cost.matrix(images.view(), noise.view()).expect("finite");
            prop_assert!(close(found.cost, brute_force(matrix.view(), &vec![0; n]), largest(&matrix)), "{cost}");
        }
    }

    #[test]
    fn one_to_one_assigners_permute_inside_groups_and_never_lose(
        cost in matrices(0..=40),
        groups in prop::collection::vec(0..4_u32, 40),
    ) {
        let n = cost.nrows();
        for assigner in sharing() {
            let name = assigner.name();
            for groups in [None, Some(&groups[..n])] {
                let found = assigner.solve(cost.view(), groups).expect("finite");
                prop_assert!(is_permutation(&found.noise_of), "{name}: {found:?}");
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
    fn knn_takes_the_first_of_the_cheapest(cost in matrices(1..=9)) {
        let found = assigner("knn").solve(cost.view(), None).expect("finite");
        for (row, &j) in cost.rows().into_iter().zip(&found.noise_of) {
            let cheapest = row.iter().copied().fold(f32::INFINITY, f32::min);
            prop_assert_eq!(row.iter().position(|&c| c == cheapest), Some(j as usize));
        }
    }
}
