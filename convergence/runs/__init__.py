"""The run of an experiment: its folder, its stages, and how they resume.

run_folder.py  the folder of an experiment and the tasks of its stages
tasks.py       tasks with records: skip, resume or set aside output
stages.py      the table of stages
run_stages.py, side_by_side.py  run them in order, or several at a time
data_record.py, weights_record.py  what the data, and given weights, are by content
signals.py     stop on signals of the scheduler, between two units of work
run_lock.py    at most one process writes an output of a run folder
lease.py       which process holds an output, and whether it still runs
job_lease.py   at most one attempt of a job writes results
"""
