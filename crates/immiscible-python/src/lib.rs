//! The native half of the Python package `immiscible`: NumPy arrays in, index arrays out, the solving without the global
//! interpreter lock. What Python says about its arguments (ranks, data types, PyTorch tensors) is checked and converted
//! in `python/immiscible/__init__.py`, so that every array which arrives here is aligned, contiguous and of one type.

mod fork;

use pyo3::pymodule;

#[pymodule]
mod _immiscible {
    use immiscible_assign::{
        ASSIGNERS, AssignError, Assignment, Candidates, Cost, Entry, Precision, Problem, Solution, by_name,
    };
    use ndarray::{ArrayView2, Ix2, Ix3};
    use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn};
    use pyo3::{
        exceptions::{PyRuntimeError, PyValueError},
        prelude::*,
    };
    use rayon::prelude::*;

    use crate::fork;

    /// Images [B, D], candidates [M, D] or [B, k, D], groups [B].
    type Arrays<'py> =
        (PyReadonlyArray2<'py, f32>, PyReadonlyArrayDyn<'py, f32>, Option<PyReadonlyArray1<'py, u32>>);

    type Index<'py> = Bound<'py, PyArray1<i64>>;

    /// A cost matrix in either precision.
    #[derive(FromPyObject)]
    enum CostMatrix<'py> {
        Single(PyReadonlyArray2<'py, f32>),
        Double(PyReadonlyArray2<'py, f64>),
    }

    #[pymodule_init]
    fn set_up(module: &Bound<'_, PyModule>) -> PyResult<()> {
        fork::remember_process();
        let methods: Vec<&str> = ASSIGNERS.iter().map(|(name, _)| *name).collect();
        module.add("METHODS", methods)?;
        module.add("COSTS", Cost::ALL.map(Cost::name))
    }

    /// The noise of each image, problem by problem; several problems share the threads.
    #[pyfunction]
    fn assign<'py>(
        py: Python<'py>,
        problems: Vec<Arrays<'py>>,
        method: &str,
        cost: &str,
        precision: &str,
    ) -> PyResult<Vec<Index<'py>>> {
        let assigner = by_name(method).map_err(value_error)?;
        let cost = cost.parse::<Cost>().map_err(value_error)?;
        let precision = match precision {
            "float32" => Precision::F32,
            "int8" => Precision::Int8,
            other => {
                let message = format!("there is no precision \"{other}\": the precisions are float32, int8");
                return Err(PyValueError::new_err(message));
            }
        };
        let problems =
            problems.iter().map(|arrays| problem(arrays, cost, precision)).collect::<PyResult<Vec<_>>>()?;
        let solved: Vec<Result<Assignment, AssignError>> =
            solve(py, || problems.par_iter().map(|problem| assigner.assign(problem)).collect())?;
        let several = solved.len() > 1;
        let index = |(i, assignment): (usize, Result<Assignment, AssignError>)| match assignment {
            Ok(assignment) => Ok(to_index(py, assignment.noise_of)),
            Err(error) if several => Err(PyValueError::new_err(format!("problem {i}: {error}"))),
            Err(error) => Err(value_error(error)),
        };
        solved.into_iter().enumerate().map(index).collect()
    }

    /// The rows and columns of the cheapest assignment.
    #[pyfunction]
    fn linear_sum_assignment<'py>(
        py: Python<'py>,
        cost: CostMatrix<'py>,
    ) -> PyResult<(Index<'py>, Index<'py>)> {
        let solution = match &cost {
            CostMatrix::Single(cost) => solve_matrix(py, cost.as_array()),
            CostMatrix::Double(cost) => solve_matrix(py, cost.as_array()),
        }?;
        Ok((to_index(py, solution.rows), to_index(py, solution.columns)))
    }

    fn solve_matrix<T: Entry>(py: Python<'_>, cost: ArrayView2<'_, T>) -> PyResult<Solution> {
        solve(py, || immiscible_assign::linear_sum_assignment(cost))?.map_err(value_error)
    }

    fn problem<'a>(
        (images, noise, groups): &'a Arrays<'_>,
        cost: Cost,
        precision: Precision,
    ) -> PyResult<Problem<'a>> {
        let noise = noise.as_array();
        let candidates = match noise.ndim() {
            2 => noise.into_dimensionality::<Ix2>().map(Candidates::Shared),
            _ => noise.into_dimensionality::<Ix3>().map(Candidates::PerImage),
        };
        let candidates = candidates.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Problem {
            cost,
            precision,
            groups: groups.as_ref().map(|groups| groups.as_slice()).transpose()?,
            ..Problem::new(images.as_array(), candidates)
        })
    }

    /// Solves while other Python threads run.
    fn solve<T: Send>(py: Python<'_>, solver: impl FnOnce() -> T + Send) -> PyResult<T> {
        let solved = py.detach(|| fork::with_threads(solver));
        solved.map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    fn to_index(py: Python<'_>, index: Vec<u32>) -> Index<'_> {
        PyArray1::from_iter(py, index.into_iter().map(i64::from))
    }

    fn value_error(error: AssignError) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}
