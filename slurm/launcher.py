"""The one door to submitit: its Slurm executor, handed the text of a job instead of a function to pickle."""

from __future__ import annotations

from pathlib import Path

from convergence.errors import UserError


def submit_text(folder: Path, text: str) -> tuple[str, str]:
    """Submit a job; returns Slurm's id and the name of the file below ``folder`` that holds its text.

    Raises
    ------
    UserError
        when submitit is not installed, there is no Slurm here, or it refuses the job.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError as error:
        raise UserError(
            f"jobs are submitted through submitit, which cannot be imported ({error}): pip install "
            "'convergent-learning[slurm]'."
        ) from error

    class TextExecutor(submitit.SlurmExecutor):
        """Makes no text of its own; submitit writes it into a file, calls sbatch and reads the id."""

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return command

    try:
        executor = TextExecutor(folder)
    except RuntimeError as error:
        raise UserError(f"{error} Submit from a login node, or see the jobs with --dry-run.") from error
    try:
        job = executor._submit_command(text)
    except (FailedJobError, FailedSubmissionError) as error:
        says = " ".join(str(error).split()) or "without a reason"
        raise UserError(
            f"sbatch refused a job: {says}. Options of a stage are set in the cluster profile: mend them, or name "
            "those that the site does not take in leave_out."
        ) from error
    finally:
        for link in folder.glob(".submission_file_*"):
            link.unlink()
    return job.job_id, job.paths.submission_file.name
