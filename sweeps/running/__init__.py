"""Running: trials as processes.

session          one call of a sweep's command: its trials, and what they have come to
tuner            hands the trials to Ray Tune
tune_adapters    what Tune calls meanwhile: a follower of its events, a stopper, a source of proposals
idle             why nothing runs, and which nodes don't come
requests         what someone elsewhere wants to end
early_end        whether, and why, a sweep is to end before its trials have
assignment       what a trial actor is asked to run, and on how much
trial_actor      what Tune schedules: a placement group, and gangs of processes over its nodes
growth           where slots would idle, the trial that would end last goes on with more of them, or its node may go
launcher_client  starts a launcher on a node, and talks to it; the actor that does so on a gang's other nodes
hang_watch       ends a gang that takes no step for too long, and says where it stood
launcher         forks a clean process per trial from one that has imported everything
"""
